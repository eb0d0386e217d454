/*
 * llm_wire.h: the protocol between clients (PostgreSQL backends, tools) and the engine process.
 *
 * A Unix stream socket. Everything is little-endian and fixed in width; a text is a u32 length and
 * its bytes, length 0xffffffff = absent. A frame is a 16-byte header and a payload of at most
 * LLM_WIRE_PAYLOAD_MAX bytes:
 *
 *	u32 payload length | u16 type | u16 zero | u64 request id
 *
 * The client speaks first: HELLO, answered by WELCOME or ERROR. A job is JOB, any number of ROWS,
 * then RUN; a request id is the client's, unique on its connection while the request lives. Results
 * come as RESULTS (several rows a frame, in any order) and PIECE, and end with DONE. ERROR ends a
 * request that could not start. Other requests have one reply. Closing the socket cancels all its
 * requests.
 *
 * Progress needs no frame of its own: rows come as they end, a stream's pieces as they are made,
 * and QUEUE tells rows and tokens of every request. Nor does a sign of life: STATS is answered by a
 * thread that waits for nothing, and tells for how long the running pass has lasted.
 *
 * Both sides include this file and check every length against what is left: a reader that runs past
 * its frame turns bad, stays bad, and gives zeros. A frame that breaks a rule gets an ERROR with
 * request id 0, and the connection is closed.
 */
#ifndef LLM_WIRE_H
#define LLM_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LLM_WIRE_MAGIC       0x4b505250u /* "PRPK" */
#define LLM_WIRE_VERSION     1u          /* goes up with every change of a frame's layout */
#define LLM_WIRE_HEADER      16u
#define LLM_WIRE_PAYLOAD_MAX (64u << 20)
#define LLM_WIRE_CHUNK       (1u << 20) /* advised size of a ROWS frame */
#define LLM_WIRE_ABSENT      0xffffffffu

#define LLM_WIRE_ROWS_MAX   1000000u
#define LLM_WIRE_LABELS_MAX 10000u
#define LLM_WIRE_STOPS_MAX  16u

typedef enum llm_wire_type
{
	/* client → engine */
	LLM_WIRE_HELLO = 1,     /* u32 magic, u32 version, u32 pid */
	LLM_WIRE_JOB = 2,       /* see llm_wire_job.c and src/client_wire.c */
	LLM_WIRE_ROWS = 3,      /* u8 second list, u32 first row, u32 count, texts */
	LLM_WIRE_RUN = 4,       /* empty: all rows are there */
	LLM_WIRE_CANCEL = 5,    /* empty */
	LLM_WIRE_LOAD = 6,      /* text path, relative to the model directory: the model's name, too */
	LLM_WIRE_UNLOAD = 7,    /* text path */
	LLM_WIRE_STATS = 8,     /* empty */
	LLM_WIRE_MODELS = 9,    /* empty */
	LLM_WIRE_QUEUE = 10,    /* empty */
	LLM_WIRE_PREFIXES = 11, /* salt[16] */
	LLM_WIRE_FAULT = 12,    /* text: crash, hang; only where the server allows faults */
	LLM_WIRE_INSPECT = 13,  /* text path: what is it, without loading it? */
	/* text URL, text options (JSON): a job that is not running yet is for this endpoint, and its
	 * model is the endpoint's registered name */
	LLM_WIRE_ENDPOINT = 14,

	/* engine → client */
	LLM_WIRE_WELCOME = 64, /* u32 magic, u32 version, u32 pid */
	LLM_WIRE_RESULTS = 65, /* u32 count, rows: see llm_wire_job.c */
	LLM_WIRE_PIECE = 66,   /* u32 row, text */
	LLM_WIRE_DONE = 67,    /* u8 status, text message, stats */
	LLM_WIRE_ERROR = 68,   /* u8 status, text message */
	LLM_WIRE_OK = 69,      /* LOAD: u64 bytes; INSPECT: u64 llm_model_kind; UNLOAD: u64 0 */
	LLM_WIRE_STATS_REPLY = 70,
	LLM_WIRE_MODELS_REPLY = 71,
	LLM_WIRE_QUEUE_REPLY = 72,
	LLM_WIRE_PREFIXES_REPLY = 73
} llm_wire_type;

typedef struct llm_wire_header
{
	uint32_t length;
	uint16_t type;
	uint64_t id;
} llm_wire_header;

/* ---- reading ------------------------------------------------------------------------------- */

typedef struct llm_wire_reader
{
	const uint8_t *at;
	size_t left;
	bool bad; /* something was missing; everything read since is zero */
} llm_wire_reader;

/* Copies n bytes out, or zeros and marks the reader bad. */
static inline void
llm_wire_get(llm_wire_reader *r, void *out, size_t n)
{
	if (r->bad || n > r->left)
	{
		r->bad = true;
		memset(out, 0, n);
		return;
	}
	memcpy(out, r->at, n);
	r->at += n;
	r->left -= n;
}

/* One byte. */
static inline uint8_t
llm_wire_get_u8(llm_wire_reader *r)
{
	uint8_t v;

	llm_wire_get(r, &v, sizeof(v));
	return v;
}

/* Four bytes, the lowest first. */
static inline uint32_t
llm_wire_get_u32(llm_wire_reader *r)
{
	uint8_t b[4];

	llm_wire_get(r, b, sizeof(b));
	return (uint32_t) b[0] | (uint32_t) b[1] << 8 | (uint32_t) b[2] << 16 | (uint32_t) b[3] << 24;
}

/* Eight bytes, the lowest first. */
static inline uint64_t
llm_wire_get_u64(llm_wire_reader *r)
{
	uint64_t low = llm_wire_get_u32(r);

	return low | (uint64_t) llm_wire_get_u32(r) << 32;
}

/* A float by its bits. */
static inline float
llm_wire_get_f32(llm_wire_reader *r)
{
	uint32_t bits = llm_wire_get_u32(r);
	float v;

	memcpy(&v, &bits, sizeof(v));
	return v;
}

/* A double by its bits. */
static inline double
llm_wire_get_f64(llm_wire_reader *r)
{
	uint64_t bits = llm_wire_get_u64(r);
	double v;

	memcpy(&v, &bits, sizeof(v));
	return v;
}

/* A text inside the frame; NULL when absent. *n is 0 then. */
static inline const char *
llm_wire_get_text(llm_wire_reader *r, size_t *n)
{
	uint32_t length = llm_wire_get_u32(r);
	const char *text = (const char *) r->at;

	*n = 0;
	if (r->bad || length == LLM_WIRE_ABSENT)
		return NULL;
	if (length > r->left)
	{
		r->bad = true;
		return NULL;
	}
	r->at += length;
	r->left -= length;
	*n = length;
	return text;
}

/*
 * A count of items that take at least item_bytes each: a lie about it is found before any
 * allocation.
 */
static inline uint32_t
llm_wire_get_count(llm_wire_reader *r, uint32_t max, size_t item_bytes)
{
	uint32_t n = llm_wire_get_u32(r);

	if (n > max || (item_bytes > 0 && n > r->left / item_bytes))
	{
		r->bad = true;
		return 0;
	}
	return n;
}

/* True when a frame was read whole and exactly. */
static inline bool
llm_wire_complete(const llm_wire_reader *r)
{
	return !r->bad && r->left == 0;
}

/* Reads a frame's header from 16 bytes; false when it breaks a rule. */
static inline bool
llm_wire_get_header(const uint8_t bytes[LLM_WIRE_HEADER], llm_wire_header *h)
{
	llm_wire_reader r = {bytes, LLM_WIRE_HEADER, false};
	uint32_t type;

	h->length = llm_wire_get_u32(&r);
	type = llm_wire_get_u32(&r);
	h->type = (uint16_t) type;
	h->id = llm_wire_get_u64(&r);
	return h->length <= LLM_WIRE_PAYLOAD_MAX && type <= 0xffffu;
}

/* ---- writing ------------------------------------------------------------------------------- */

/*
 * A growing buffer of frames. grow makes room for at least need more bytes, or returns false;
 * without memory the writer turns failed, and its content is not to be sent.
 */
typedef struct llm_wire_writer llm_wire_writer;

struct llm_wire_writer
{
	uint8_t *bytes;
	size_t n;
	size_t capacity;
	bool (*grow)(llm_wire_writer *w, size_t need);
	void *arg;
	size_t frame; /* where the open frame's header is */
	bool failed;
};

/* Appends n bytes, growing if need be. */
static inline void
llm_wire_put(llm_wire_writer *w, const void *bytes, size_t n)
{
	if (w->failed || n == 0)
		return;
	if (n > w->capacity - w->n && !w->grow(w, n))
	{
		w->failed = true;
		return;
	}
	memcpy(w->bytes + w->n, bytes, n);
	w->n += n;
}

/* One byte. */
static inline void
llm_wire_put_u8(llm_wire_writer *w, uint8_t v)
{
	llm_wire_put(w, &v, sizeof(v));
}

/* Four bytes, the lowest first. */
static inline void
llm_wire_put_u32(llm_wire_writer *w, uint32_t v)
{
	uint8_t b[4] = {(uint8_t) v, (uint8_t) (v >> 8), (uint8_t) (v >> 16), (uint8_t) (v >> 24)};

	llm_wire_put(w, b, sizeof(b));
}

/* Eight bytes, the lowest first. */
static inline void
llm_wire_put_u64(llm_wire_writer *w, uint64_t v)
{
	llm_wire_put_u32(w, (uint32_t) v);
	llm_wire_put_u32(w, (uint32_t) (v >> 32));
}

/* A float by its bits. */
static inline void
llm_wire_put_f32(llm_wire_writer *w, float v)
{
	uint32_t bits;

	memcpy(&bits, &v, sizeof(bits));
	llm_wire_put_u32(w, bits);
}

/* A double by its bits. */
static inline void
llm_wire_put_f64(llm_wire_writer *w, double v)
{
	uint64_t bits;

	memcpy(&bits, &v, sizeof(bits));
	llm_wire_put_u64(w, bits);
}

/* bytes == NULL: absent. */
static inline void
llm_wire_put_text(llm_wire_writer *w, const char *bytes, size_t n)
{
	if (bytes == NULL)
	{
		llm_wire_put_u32(w, LLM_WIRE_ABSENT);
		return;
	}
	if (n >= LLM_WIRE_PAYLOAD_MAX)
	{
		w->failed = true;
		return;
	}
	llm_wire_put_u32(w, (uint32_t) n);
	llm_wire_put(w, bytes, n);
}

/* Opens a frame; its length is filled in by llm_wire_end. */
static inline void
llm_wire_begin(llm_wire_writer *w, llm_wire_type type, uint64_t id)
{
	w->frame = w->n;
	llm_wire_put_u32(w, 0);
	llm_wire_put_u32(w, (uint32_t) type);
	llm_wire_put_u64(w, id);
}

/* Closes the open frame. A payload over the limit fails the writer. */
static inline void
llm_wire_end(llm_wire_writer *w)
{
	size_t length;

	if (w->failed)
		return;
	length = w->n - w->frame - LLM_WIRE_HEADER;
	if (length > LLM_WIRE_PAYLOAD_MAX)
	{
		w->failed = true;
		return;
	}
	for (int i = 0; i < 4; i++)
		w->bytes[w->frame + (size_t) i] = (uint8_t) (length >> (8 * i));
}

#endif /* LLM_WIRE_H */
