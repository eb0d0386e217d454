/*
 * client_wire.h: requests of a backend, and their frames: the glue's side of llm_wire.h.
 *
 * Private to client.c and client_wire.c.
 */
#ifndef PP_CLIENT_WIRE_H
#define PP_CLIENT_WIRE_H

#include "client.h"

#include "llm/llm_wire.h"

/* A request. Lives in its context, with all its results. */
struct PpRequest
{
	struct PpRequest *next;
	MemoryContext context;
	MemoryContextCallback release;
	uint64 id;
	char *function; /* NULL: not a job */
	char *model;
	int n_rows;
	PpRow *rows;
	bool done;
	bool lost;    /* the engine died before it was done */
	bool counted; /* in the statistics */
	int status;   /* of the request as a whole */
	char *message;
	PpJobStats stats;
	PpText *pieces;
	int n_pieces;
	int cap_pieces;
	int next_piece;
	char *reply; /* payload of a reply to anything but a job */
	Size n_reply;
};

/* Writers: over malloc'd memory; over a buffer that must suffice. */
extern bool pp_wire_grow(llm_wire_writer *w, size_t need);
extern bool pp_wire_refuse(llm_wire_writer *w, size_t need);

extern void pp_wire_put_job(llm_wire_writer *w, uint64 id, const PpJob *job, const uint8 salt[16],
                            int n_rows, int n_rows2);
/* Bytes of a job's texts without its rows. */
extern Size pp_wire_job_bytes(const PpJob *job);
/* Writes rows from first on, one frame; returns the row after the last one written. */
extern int pp_wire_put_rows(llm_wire_writer *w, uint64 id, bool second, const PpText *rows,
                            int first, int n_rows);

/*
 * Takes one frame into its request; false: it breaks the protocol. count is told of every good row.
 */
extern bool pp_wire_take(PpRequest *req, const llm_wire_header *h, const uint8 *payload,
                         void (*count)(const PpRow *row));
extern bool pp_wire_get_stats(const uint8 *payload, Size n, PpEngineInfo *info);

/* client.c: a socket connected to the engine, or PGINVALID_SOCKET. */
extern pgsocket pp_client_socket(void);

#endif /* PP_CLIENT_WIRE_H */
