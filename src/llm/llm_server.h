/*
 * llm_server.h: the engine process: serves llm_wire.h on a Unix socket until it is told to stop.
 *
 * It stops when the control descriptor reads end-of-file (the supervisor has gone), on SIGTERM or
 * SIGINT, or when the device is lost (then with a failure, so that the supervisor starts a fresh
 * process).
 */
#ifndef LLM_SERVER_H
#define LLM_SERVER_H

#include "llm.h"

typedef struct llm_server_params
{
	const char *socket_path;
	const char *model_directory; /* models are named by their path in it */
	const char *key_directory;   /* of endpoints' keys; NULL = none */
	int control_fd;              /* -1 = none */
	bool allow_faults;           /* tests only: FAULT frames are obeyed */
	/* 0 = three quarters of the descriptors that the process may have */
	uint32_t max_connections;
	uint32_t stall_ms;    /* an unfinished frame or a missing HELLO costs the connection
	                              * after this long; 0 = 30 s */
	uint64_t input_limit; /* bytes of jobs that wait or run, one connection at most half of
	                              * it; 0 = 2 GiB */
	llm_engine_params engine;
	void (*log)(const char *message); /* one line, never a prompt; from any thread; NULL = none */
} llm_server_params;

/* Runs until the end. LLM_OK: it was told to stop. */
llm_status llm_server_run(const llm_server_params *params, llm_error *err);

#endif /* LLM_SERVER_H */
