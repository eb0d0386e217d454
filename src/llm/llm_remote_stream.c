/*
 * llm_remote_stream.c: an answer that comes piece by piece, as server-sent events.
 *
 * What arrives is bytes, cut anywhere: they are gathered into lines, the lines into events (the
 * HTML standard, "server-sent events", §9.2.6), and each event is one JSON object of the OpenAI
 * API's streaming, or "[DONE]". Its text goes to the job at once and is kept for the row's result.
 * A token may be a part of a character, and some servers send it as it is, as bytes or as half of a
 * pair of \u escapes: what is no whole character yet is held back until the next event.
 *
 * As in llm_remote_read.c nothing is believed. The bound on a reply holds for all that arrives and
 * so for the longest line and the longest text. A stream that just ends was cut off: only "[DONE]"
 * makes it good. What has been given cannot be taken back, so such a request is never tried again.
 */
#include <string.h>
#include <strings.h>

#include "llm_remote_impl.h"
#include "llm_unicode.h"

#define MEDIA_TYPE "text/event-stream"

/* Says that a stream breaks the protocol; false. */
static bool
broken(remote_call *call, const char *what)
{
	llm_fail(&call->stream.error, LLM_E_PROTOCOL, "endpoint \"%s\" sent a malformed reply: %s",
	         call->job->endpoint->name, what);
	return false;
}

/* Whether the answers of a job are asked for piece by piece: not JSON, which is checked whole. */
bool
remote_streams(const remote_job *job)
{
	return job->job->kind == LLM_JOB_GENERATE && (job->job->flags & LLM_JOB_STREAM) &&
	       job->job->on_piece != NULL && job->job->schema.bytes == NULL;
}

/* ---- events -------------------------------------------------------------------------------- */

/* Whether three bytes are half of a surrogate pair: the first has 0xa0 in its second byte, the
 * other one 0xb0. */
static bool
is_half(const char *s, unsigned char mark)
{
	return (unsigned char) s[0] == 0xed && ((unsigned char) s[1] & 0xf0) == mark;
}

/* The bytes of a text before its last character, if that is not whole, else all of them. */
static size_t
whole_characters(const char *s, size_t n)
{
	if (n >= 3 && is_half(s + n - 3, 0xa0))
		return n - 3;
	for (size_t i = 1; i <= 3 && i <= n; i++)
	{
		unsigned char c = (unsigned char) s[n - i];
		size_t length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;

		if ((c & 0xc0) != 0x80)
			return length > i ? n - i : n;
	}
	return n;
}

/* Gives what is whole of the text that has not been given. */
static bool
give_text(remote_call *call)
{
	remote_stream *s = &call->stream;
	const llm_job *job = call->job->job;
	llm_text piece = {s->text.bytes + s->n_given, s->text.n - s->n_given};

	piece.n = whole_characters(piece.bytes, piece.n);
	if (!llm_utf8_valid(piece.bytes, piece.n))
		return broken(call, "its text is not UTF-8");
	if (piece.n == 0)
		return true;
	s->n_given += piece.n;
	s->given = true;
	job->on_piece(job->user, call->first, piece);
	return true;
}

/* Makes one character of the half a text ends in and the other one; its fourth byte is returned. */
static char
join_halves(char *high, const char *low)
{
	uint32_t c = 0x10000 + ((uint32_t) (high[1] & 0x0f) << 16 | (uint32_t) (high[2] & 0x3f) << 10 |
	                        (uint32_t) (low[1] & 0x0f) << 6 | (uint32_t) (low[2] & 0x3f));

	high[0] = (char) (0xf0 | c >> 18);
	high[1] = (char) (0x80 | (c >> 12 & 0x3f));
	high[2] = (char) (0x80 | (c >> 6 & 0x3f));
	return (char) (0x80 | (c & 0x3f));
}

/* Appends a piece to what the answer has so far. */
static void
append_text(remote_stream *s, llm_text piece)
{
	char *high = s->text.n >= s->n_given + 3 ? s->text.bytes + s->text.n - 3 : NULL;

	if (high != NULL && piece.n >= 3 && is_half(high, 0xa0) && is_half(piece.bytes, 0xb0))
	{
		char last = join_halves(high, piece.bytes);

		llm_buffer_put(&s->text, &last, 1);
		piece = (llm_text){piece.bytes + 3, piece.n - 3};
	}
	llm_buffer_put(&s->text, piece.bytes, piece.n);
}

/* Takes a piece of the answer. */
static bool
take_piece(remote_call *call, const llm_json *node)
{
	remote_stream *s = &call->stream;
	llm_text piece;

	if (node == NULL || llm_json_get_kind(node) == LLM_JSON_NULL)
		return true; /* as in the first event, which says who speaks */
	if (!llm_json_string(node, &piece.bytes, &piece.n))
		return broken(call, "a piece is no text");
	if (memchr(piece.bytes, '\0', piece.n) != NULL)
		return broken(call, "its text has NUL bytes");
	if (piece.n == 0)
		return true;
	append_text(s, piece);
	return s->text.failed || give_text(call); /* the caller looks for lack of memory */
}

/* Takes what one event's JSON says. */
static bool
take_object(remote_call *call, const llm_json *root)
{
	remote_stream *s = &call->stream;
	const llm_json *choice = llm_json_item(llm_json_member(root, "choices"), 0);
	const llm_json *delta = llm_json_member(choice, "delta");
	llm_row_result used = {0};

	if (llm_json_get_kind(root) != LLM_JSON_OBJECT)
		return broken(call, "an event is no JSON object");
	if (llm_json_get_kind(llm_json_member(root, "error")) != LLM_JSON_NULL)
	{
		llm_fail(&s->error, LLM_E_REMOTE, "endpoint \"%s\" failed in the middle of an answer",
		         call->job->endpoint->name);
		return false;
	}
	if (remote_read_usage(call, root, &used, &s->error) != LLM_OK)
		return false;
	if (used.n_tokens > 0)
		s->used = used;
	s->cut = s->cut || llm_json_is(llm_json_member(choice, "finish_reason"), "length");
	return take_piece(call, delta != NULL ? llm_json_member(delta, "content")
	                                      : llm_json_member(choice, "text"));
}

/* Takes the event whose data has come together. */
static bool
take_event(remote_call *call)
{
	remote_stream *s = &call->stream;
	llm_json_doc *doc = NULL;
	bool good;

	if (s->data.n == 0 || s->ended)
		return true;
	if (s->data.n == 6 && memcmp(s->data.bytes, "[DONE]", 6) == 0)
		s->ended = true;
	else if (llm_json_parse_bytes(s->data.bytes, s->data.n, &doc, &s->error) != LLM_OK)
		return s->error.code != LLM_E_NOMEM && broken(call, "an event is not JSON");
	s->data.n = 0;
	good = doc == NULL || take_object(call, llm_json_root(doc));
	llm_json_free(doc);
	return good;
}

/* ---- lines --------------------------------------------------------------------------------- */

/* Takes a line: an empty one ends an event; of the others only those with data matter. */
static bool
take_line(remote_call *call)
{
	remote_stream *s = &call->stream;
	bool marked = !s->began && s->line.n >= 3 && memcmp(s->line.bytes, "\xef\xbb\xbf", 3) == 0;
	const char *line = marked ? s->line.bytes + 3 : s->line.bytes;
	size_t n = marked ? s->line.n - 3 : s->line.n;
	bool data = n >= 4 && memcmp(line, "data", 4) == 0 && (n == 4 || line[4] == ':');
	size_t skip = n < 5 ? n : n > 5 && line[5] == ' ' ? 6 : 5;

	s->began = true;
	s->line.n = 0;
	if (n == 0)
		return take_event(call);
	if (data)
	{
		if (s->data.n > 0)
			llm_buffer_put(&s->data, "\n", 1);
		llm_buffer_put(&s->data, line + skip, n - skip);
	}
	return true;
}

/* Takes what has arrived, line by line; a line ends in LF, CR or both. */
static bool
take_bytes(remote_call *call, const char *bytes, size_t n)
{
	remote_stream *s = &call->stream;
	size_t from = 0;

	for (size_t i = 0; i < n; i++)
	{
		bool after_cr = s->after_cr;

		s->after_cr = bytes[i] == '\r';
		if (bytes[i] != '\n' && bytes[i] != '\r')
			continue;
		llm_buffer_put(&s->line, bytes + from, i - from);
		from = i + 1;
		if (bytes[i] == '\n' && after_cr && s->line.n == 0)
			continue; /* the other half of the line's end */
		if (!take_line(call))
			return false;
	}
	llm_buffer_put(&s->line, bytes + from, n - from);
	return true;
}

/* Looks at the reply's head: is it a stream at all? */
static bool
is_event_stream(const remote_call *call)
{
	const char *type = NULL;
	long http = 0;

	curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &http);
	curl_easy_getinfo(call->easy, CURLINFO_CONTENT_TYPE, &type);
	return http >= 200 && http < 300 && type != NULL &&
	       strncasecmp(type, MEDIA_TYPE, strlen(MEDIA_TYPE)) == 0;
}

/* ---- for the other files ------------------------------------------------------------------- */

/* Begins with the first bytes of a reply. */
bool
remote_stream_begins(remote_call *call)
{
	if (!call->stream.on && call->reply.n == 0 && remote_streams(call->job))
		call->stream.on = is_event_stream(call);
	return call->stream.on;
}

/* Takes bytes of a stream. */
bool
remote_stream_take(remote_call *call, const char *bytes, size_t n)
{
	remote_stream *s = &call->stream;

	if (n > REMOTE_REPLY_MAX - s->n_bytes)
	{
		call->too_big = true;
		return false;
	}
	s->n_bytes += n;
	if (!take_bytes(call, bytes, n))
		return false;
	if (!s->line.failed && !s->data.failed && !s->text.failed)
		return !s->ended; /* what may follow is not waited for */
	llm_fail(&s->error, LLM_E_NOMEM, "out of memory for the reply of an endpoint");
	return false;
}

/* Gives the row's result at the end of a stream. */
llm_status
remote_stream_finish(remote_call *call, llm_error *err)
{
	remote_stream *s = &call->stream;
	llm_row_result result = s->used;

	/* The last line may have no end, and the last event no empty line. */
	if ((s->line.n > 0 && !take_line(call)) || !take_event(call) ||
	    (!s->ended && !broken(call, "it ends in the middle")) ||
	    (s->n_given < s->text.n && !broken(call, "it ends in the middle of a character")))
	{
		*err = s->error;
		return err->code;
	}
	result.row = call->first;
	result.text = (llm_text){s->text.n > 0 ? s->text.bytes : "", s->text.n};
	result.finish = s->cut ? LLM_FINISH_LENGTH : LLM_FINISH_END;
	remote_row_done(call->job, &result);
	return LLM_OK;
}

/* Forgets a stream. */
void
remote_stream_reset(remote_call *call)
{
	llm_buffer_free(&call->stream.line);
	llm_buffer_free(&call->stream.data);
	llm_buffer_free(&call->stream.text);
	call->stream = (remote_stream){0};
}
