/*
 * main.c: prepack-studio's command line and loop.
 *
 *	prepack-studio [--port N] [--ui FOLDER] [--quiet] postgresql://…
 *
 * It listens on 127.0.0.1 only, prints a link that opens one tab, and another after each use.
 * SIGINT and SIGTERM end it: the tabs' statements are cancelled and their connections closed.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "studio.h"

Studio studio;

static volatile sig_atomic_t stopping;

static const struct lws_protocols protocols[] = {
    {.name = "http", .callback = files_callback, .per_session_data_size = 64},
    {.name = "prepack-studio",
     .callback = tab_callback,
     .per_session_data_size = sizeof(Tab),
     .rx_buffer_size = 16 << 10},
    {.name = "libpq", .callback = link_callback, .rx_buffer_size = 4096},
    {.name = NULL},
};

/* Lets the loop end. */
static void
on_signal(int signal_number)
{
	(void) signal_number;
	stopping = 1;
	if (studio.context != NULL)
		lws_cancel_service(studio.context);
}

/* Says how it is called. */
static void
usage(FILE *to)
{
	(void) fputs("usage: prepack-studio [options] CONNECTION\n"
	             "Shows the answer of a query while you type it, in a browser.\n\n"
	             "  CONNECTION    of the server, as libpq takes it: postgresql://host/database, or "
	             "key=value\n"
	             "                pairs; without a password it comes from the password file or "
	             "from the page\n"
	             "  --port N      the port on 127.0.0.1 (default: one that is free)\n"
	             "  --ui FOLDER   the built page\n"
	             "  --quiet       print one link only\n"
	             "  --version, --help\n",
	             to);
}

/* Reads the options; false when they are wrong. */
static bool
read_options(int argc, char **argv, const char **folder)
{
	static const struct option options[] = {{"port", required_argument, NULL, 'p'},
	                                        {"ui", required_argument, NULL, 'u'},
	                                        {"quiet", no_argument, NULL, 'q'},
	                                        {"version", no_argument, NULL, 'v'},
	                                        {"help", no_argument, NULL, 'h'},
	                                        {NULL, 0, NULL, 0}};
	int option;
	char *end;

	while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1)
	{
		if (option == 'p')
		{
			long port = strtol(optarg, &end, 10);

			if (*end != '\0' || port < 0 || port > 65535)
				return false;
			studio.port = (int) port;
		}
		else if (option == 'u')
			*folder = optarg;
		else if (option == 'q')
			studio.quiet = true;
		else if (option == 'v')
			exit(puts("prepack-studio 1.0") < 0);
		else if (option == 'h')
		{
			usage(stdout);
			exit(0);
		}
		else
			return false;
	}
	if (optind + 1 != argc)
		return false;
	studio.conninfo = argv[optind];
	return true;
}

/* Refuses what libpq cannot read, before anything listens. */
static bool
check_conninfo(void)
{
	char *message = NULL;
	PQconninfoOption *options = PQconninfoParse(studio.conninfo, &message);

	if (options == NULL)
		(void) fprintf(stderr, "prepack-studio: %s", message == NULL ? "out of memory\n" : message);
	PQconninfoFree(options);
	PQfreemem(message);
	return options != NULL;
}

/* Opens the port. */
static bool
listen_here(void)
{
	struct lws_context_creation_info info = {.port = studio.port,
	                                         .iface = "127.0.0.1",
	                                         .protocols = protocols,
	                                         .gid = (gid_t) -1,
	                                         .uid = (uid_t) -1,
	                                         .options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS |
	                                                    LWS_SERVER_OPTION_FAIL_UPON_UNABLE_TO_BIND};

	lws_set_log_level(LLL_ERR, NULL);
	studio.context = lws_create_context(&info);
	if (studio.context == NULL)
		return false;
	studio.vhost = lws_create_vhost(studio.context, &info);
	if (studio.vhost == NULL)
		return false;
	studio.port = lws_get_vhost_listen_port(studio.vhost);
	return true;
}

/* Starts, serves, ends. */
int
main(int argc, char **argv)
{
	const char *folder = STUDIO_UI_FOLDER;
	struct sigaction action = {.sa_handler = on_signal};

	if (!read_options(argc, argv, &folder))
	{
		usage(stderr);
		return 2;
	}
	if (!check_conninfo())
		return 2;
	if (!files_load(folder))
	{
		(void) fprintf(stderr, "prepack-studio: no page in \"%s\": see --ui\n", folder);
		return 1;
	}
	(void) signal(SIGPIPE, SIG_IGN);
	if (!listen_here())
	{
		(void) fprintf(stderr, "prepack-studio: cannot listen on port %d\n", studio.port);
		return 1;
	}
	(void) sigaction(SIGINT, &action, NULL);
	(void) sigaction(SIGTERM, &action, NULL);
	access_print_url();
	while (!stopping && lws_service(studio.context, 0) >= 0)
		;
	lws_context_destroy(studio.context);
	return 0;
}
