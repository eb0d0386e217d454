/*
 * files.c: the page, over HTTP.
 *
 * All files are read when the program starts: a request can name one of them or nothing, so no path
 * of a request ever meets the file system. A file whose compressed twin (.gz) stands beside it is
 * sent so to whoever takes that. Every answer carries the headers that confine the page to itself;
 * index.html has a fresh nonce in the places where it says __NONCE__, for the editor's style
 * sheets.
 */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "llm_alloc.h"
#include "studio.h"

#define N_FILES     64
#define FILE_MAX    ((size_t) 8 << 20)
#define NONCE_CHARS 32
#define NONCE_MARK  "__NONCE__"
#define PIECE       ((size_t) 16 << 10)

typedef struct File
{
	char path[256]; /* as in a request */
	Text plain, gzip;
} File;

/* What is being sent; libwebsockets keeps one for each request, zeroed. */
typedef struct Sending
{
	const char *data;
	size_t bytes, sent;
	char *own; /* to be freed */
} Sending;

static File files[N_FILES];
static unsigned n_files;

/* Reads a file; false when it cannot be read or is too big. */
static bool
read_file(const char *name, Text *out)
{
	FILE *file = fopen(name, "rb");
	char piece[8192];
	size_t n = 1;

	if (file == NULL)
		return false;
	while (n > 0 && out->bytes < FILE_MAX)
	{
		n = fread(piece, 1, sizeof(piece), file);
		text_add(out, piece, n);
	}
	(void) fclose(file);
	return n == 0 && !out->failed;
}

/* The file that a path names, or NULL. */
static File *
find_file(const char *path)
{
	for (unsigned i = 0; i < n_files; i++)
		if (strcmp(files[i].path, path) == 0)
			return &files[i];
	return NULL;
}

/* Reads one file and its compressed twin. */
static bool
load_file(const char *name, const char *path)
{
	char twin[1024];
	File *file = &files[n_files];

	if (n_files == N_FILES || strlen(path) >= sizeof(file->path))
		return false;
	(void) snprintf(file->path, sizeof(file->path), "%s", path);
	(void) snprintf(twin, sizeof(twin), "%s.gz", name);
	if (!read_file(name, &file->plain))
		return false;
	if (!read_file(twin, &file->gzip))
		text_clear(&file->gzip);
	n_files++;
	return true;
}

/* Reads the files of a folder, and of assets/ below it. */
static bool
load_folder(const char *folder, const char *path)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;
	bool ok = dir != NULL;

	while (ok && (entry = readdir(dir)) != NULL)
	{
		char name[768], below[512];
		size_t n = strlen(entry->d_name);
		struct stat st;

		if (entry->d_name[0] == '.' || (n > 3 && strcmp(entry->d_name + n - 3, ".gz") == 0))
			continue;
		if (snprintf(name, sizeof(name), "%s/%s", folder, entry->d_name) >= (int) sizeof(name) ||
		    snprintf(below, sizeof(below), "%s/%s", path, entry->d_name) >= (int) sizeof(below) ||
		    stat(name, &st) != 0)
			ok = false;
		else if (S_ISREG(st.st_mode))
			ok = load_file(name, below);
		else if (strcmp(below, "/assets") == 0)
			ok = load_folder(name, below);
	}
	if (dir != NULL)
		(void) closedir(dir);
	return ok;
}

/* Reads the page; false when there is none. */
bool
files_load(const char *folder)
{
	return load_folder(folder, "") && find_file("/index.html") != NULL;
}

/* The media type of a path. */
static const char *
media_type(const char *path)
{
	static const struct
	{
		const char *ending, *type;
	} types[] = {{".html", "text/html; charset=utf-8"},
	             {".js", "text/javascript; charset=utf-8"},
	             {".css", "text/css; charset=utf-8"},
	             {".svg", "image/svg+xml"}};
	const char *ending = strrchr(path, '.');

	for (size_t i = 0; ending != NULL && i < sizeof(types) / sizeof(types[0]); i++)
		if (strcmp(ending, types[i].ending) == 0)
			return types[i].type;
	return "application/octet-stream";
}

/* Adds one header. */
static bool
add_header(struct lws *wsi, const char *name, const char *value, unsigned char **p,
           unsigned char *end)
{
	return lws_add_http_header_by_name(wsi, (const unsigned char *) name,
	                                   (const unsigned char *) value, (int) strlen(value), p,
	                                   end) == 0;
}

/* Adds what every answer carries. */
static bool
add_security(struct lws *wsi, const char *nonce, unsigned char **p, unsigned char *end)
{
	char policy[512];

	(void) snprintf(policy, sizeof(policy),
	                "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-%s'; "
	                "img-src 'self' data:; connect-src 'self' ws://127.0.0.1:%d ws://localhost:%d; "
	                "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
	                "require-trusted-types-for 'script'",
	                nonce, studio.port, studio.port);
	return add_header(wsi, "content-security-policy:", policy, p, end) &&
	       add_header(wsi, "x-content-type-options:", "nosniff", p, end) &&
	       add_header(wsi, "x-frame-options:", "DENY", p, end) &&
	       add_header(wsi, "referrer-policy:", "no-referrer", p, end) &&
	       add_header(wsi, "cross-origin-opener-policy:", "same-origin", p, end) &&
	       add_header(wsi, "cross-origin-resource-policy:", "same-origin", p, end) &&
	       add_header(wsi, "permissions-policy:", "camera=(), microphone=(), geolocation=()", p,
	                  end);
}

/* Sends the headers of an answer. */
static int
send_headers(struct lws *wsi, unsigned status, const char *path, bool gzip, size_t bytes,
             const char *nonce)
{
	unsigned char room[LWS_PRE + 2048], *start = room + LWS_PRE, *p = start;
	unsigned char *end = room + sizeof(room) - 1;
	const char *keep = strncmp(path, "/assets/", 8) == 0 ? "private, max-age=86400" : "no-store";

	if (lws_add_http_common_headers(wsi, status, media_type(path), bytes, &p, end) != 0 ||
	    !add_security(wsi, nonce, &p, end) || !add_header(wsi, "cache-control:", keep, &p, end) ||
	    (gzip && !add_header(wsi, "content-encoding:", "gzip", &p, end)))
		return 1;
	return lws_finalize_write_http_header(wsi, start, &p, end);
}

/*
 * A copy of a text with the nonce in place of its marks, of the same length each; NULL: no memory.
 */
static char *
with_nonce(const Text *plain, const char *nonce, size_t *bytes)
{
	Text out = {0};
	const char *at = plain->data, *end = plain->data + plain->bytes, *mark;

	while ((mark = memmem(at, (size_t) (end - at), NONCE_MARK, strlen(NONCE_MARK))) != NULL)
	{
		text_add(&out, at, (size_t) (mark - at));
		text_puts(&out, nonce);
		at = mark + strlen(NONCE_MARK);
	}
	text_add(&out, at, (size_t) (end - at));
	*bytes = out.bytes;
	return out.data;
}

/* Answers a request. */
static int
start_answer(struct lws *wsi, Sending *sending, const char *path)
{
	char nonce[NONCE_CHARS + 1], accepts[256] = "";
	unsigned char random[NONCE_CHARS / 2];
	File *file = find_file(strcmp(path, "/") == 0 ? "/index.html" : path);
	bool gzip;

	if (getrandom(random, sizeof(random), 0) != (ssize_t) sizeof(random))
		return 1;
	for (size_t i = 0; i < sizeof(random); i++)
		(void) snprintf(nonce + 2 * i, 3, "%02x", random[i]);
	if (file == NULL || !access_host_is_ours(wsi) ||
	    lws_hdr_total_length(wsi, WSI_TOKEN_GET_URI) == 0)
	{
		unsigned status = file == NULL ? HTTP_STATUS_NOT_FOUND : HTTP_STATUS_FORBIDDEN;

		return send_headers(wsi, status, "", false, 0, nonce) != 0 ||
		       lws_http_transaction_completed(wsi);
	}
	(void) lws_hdr_copy(wsi, accepts, sizeof(accepts), WSI_TOKEN_HTTP_ACCEPT_ENCODING);
	gzip = file->gzip.bytes > 0 && strstr(accepts, "gzip") != NULL;
	*sending = gzip ? (Sending){file->gzip.data, file->gzip.bytes, 0, NULL}
	                : (Sending){file->plain.data, file->plain.bytes, 0, NULL};
	if (strcmp(file->path, "/index.html") == 0)
	{
		gzip = false;
		sending->own = with_nonce(&file->plain, nonce, &sending->bytes);
		sending->data = sending->own;
	}
	if (sending->data == NULL ||
	    send_headers(wsi, HTTP_STATUS_OK, file->path, gzip, sending->bytes, nonce) != 0)
		return 1;
	lws_callback_on_writable(wsi);
	return 0;
}

/* Sends the next piece of a file. */
static int
send_piece(struct lws *wsi, Sending *sending)
{
	unsigned char room[LWS_PRE + PIECE];
	size_t left = sending->bytes - sending->sent, n = left < PIECE ? left : PIECE;

	if (sending->data == NULL)
		return 0;
	memcpy(room + LWS_PRE, sending->data + sending->sent, n);
	sending->sent += n;
	if (lws_write(wsi, room + LWS_PRE, n, n == left ? LWS_WRITE_HTTP_FINAL : LWS_WRITE_HTTP) <
	    (int) n)
		return -1;
	if (n < left)
		return lws_callback_on_writable(wsi) < 0 ? -1 : 0;
	llm_free(sending->own);
	*sending = (Sending){0};
	return lws_http_transaction_completed(wsi) ? -1 : 0;
}

/* The HTTP protocol; a WebSocket that names no protocol arrives here, too, and is refused. */
int
files_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
	Sending *sending = user;

	switch (reason)
	{
		case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION:
		case LWS_CALLBACK_ESTABLISHED:
			return -1;
		case LWS_CALLBACK_HTTP:
			return start_answer(wsi, sending, in) != 0 ? -1 : 0;
		case LWS_CALLBACK_HTTP_WRITEABLE:
			return send_piece(wsi, sending);
		case LWS_CALLBACK_CLOSED_HTTP:
		case LWS_CALLBACK_HTTP_DROP_PROTOCOL:
			if (sending != NULL)
			{
				llm_free(sending->own);
				*sending = (Sending){0};
			}
			return 0;
		default:
			return lws_callback_http_dummy(wsi, reason, user, in, len);
	}
}
