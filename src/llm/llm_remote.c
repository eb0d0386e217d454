/*
 * llm_remote.c: the executor's thread: jobs in, requests out, retries, results, the end.
 *
 * Each turn takes what was submitted and cancelled, starts as many requests as the endpoints allow,
 * jobs in turn, lets libcurl move bytes, and handles the requests that have ended. Between turns it
 * sleeps in curl_multi_poll, which submit, cancel and destroy interrupt.
 *
 * A request that fails is tried again after a pause that doubles; the server's Retry-After holds
 * for all requests to it. When some requests in a row have failed for good, the endpoint is down,
 * and what is left of the job fails with the same words rather than after as many pauses.
 */
#include "llm_remote_impl.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "llm_alloc.h"

#define IDLE_WAIT_MS 60000.0
#define LANES_KEPT   64u

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static bool curl_ready;

/* Monotonic milliseconds. */
double
remote_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double) ts.tv_sec * 1e3 + (double) ts.tv_nsec * 1e-6;
}

/* ---- results ------------------------------------------------------------------------------- */

/* Gives a row's result. */
void
remote_row_done(remote_job *job, const llm_row_result *result)
{
	if (job->done[result->row])
		return;
	job->done[result->row] = true;
	job->stats.n_prompt_tokens += result->n_tokens;
	job->stats.n_shared_tokens += result->n_shared;
	job->stats.n_output_tokens += result->n_output;
	job->stats.n_errors += result->status != LLM_OK;
	if (job->job->on_row != NULL)
		job->job->on_row(job->job->user, result);
}

/* Fails a row. */
void
remote_row_failed(remote_job *job, uint32_t row, const llm_error *why)
{
	llm_row_result result = {.row = row, .status = why->code, .message = why->message};

	remote_row_done(job, &result);
}

/* ---- jobs and their calls ------------------------------------------------------------------ */

/* Takes a call off its job. */
static void
drop_call(llm_remote *r, remote_call *call)
{
	remote_call **link = &call->job->calls;

	while (*link != call)
		link = &(*link)->next;
	*link = call->next;
	call->job->n_open--;
	remote_call_stop(r, call);
	llm_free(call);
}

/* Adds a call for some units. NULL: no memory. */
static remote_call *
add_call(remote_job *job, uint32_t first, uint32_t n)
{
	remote_call *call = llm_calloc(1, sizeof(*call));
	bool labels = remote_is_labels(job) && !remote_is_texts(job);

	if (call == NULL)
		return NULL;
	call->job = job;
	call->first = first;
	call->n = n;
	/* Without anything special in it, it is plain already. */
	call->level = labels                           ? job->lane->labels
	              : job->job->schema.bytes != NULL ? job->lane->schema
	              : remote_streams(job)            ? job->lane->stream
	                                               : REMOTE_PLAIN;
	call->next = job->calls;
	job->calls = call;
	job->n_open++;
	return call;
}

/* Whether the row of a unit needs no further request. */
static bool
is_settled(const remote_job *job, uint32_t unit)
{
	uint32_t n_rows2 = job->job->n_rows2;

	if (remote_is_cosine(job))
		return unit >= n_rows2 && job->done[unit - n_rows2];
	return job->done[remote_is_multi(job) ? unit / job->job->n_labels : unit];
}

/* How many units from first on go into one request. */
static uint32_t
count_units(const remote_job *job, uint32_t first)
{
	size_t bytes = remote_unit_text(job, first).n;
	uint32_t n = 1;

	if (!remote_is_texts(job))
		return 1;
	while (n < REMOTE_EMBED_TEXTS && first + n < job->n_units && bytes < REMOTE_EMBED_BYTES)
		bytes += remote_unit_text(job, first + n++).n;
	return n;
}

/* The call to send next: one whose pause is over, else one for new units; NULL: none now. */
static remote_call *
next_call(remote_job *job, double now, double *wait, llm_error *err)
{
	remote_call *call;
	uint32_t first;

	err->code = LLM_OK;
	for (call = job->calls; call != NULL; call = call->next)
	{
		if (call->flying)
			continue;
		if (call->not_before_ms <= now)
			return call;
		if (call->not_before_ms - now < *wait)
			*wait = call->not_before_ms - now;
	}
	while (job->cursor < job->n_units && is_settled(job, job->cursor))
		job->cursor++;
	if (job->cursor == job->n_units || job->n_open >= job->endpoint->concurrency)
		return NULL;
	first = job->cursor;
	if ((call = add_call(job, first, count_units(job, first))) == NULL)
	{
		llm_fail(err, LLM_E_NOMEM, "out of memory for a request to an endpoint");
		return NULL;
	}
	job->cursor += call->n;
	return call;
}

/* Fails all that is left of a job which was given up. */
static void
fail_rest(llm_remote *r, remote_job *job)
{
	for (uint32_t i = 0; i < job->job->n_rows; i++)
		remote_row_failed(job, i, &job->given_up);
	job->cursor = job->n_units;
	while (job->calls != NULL)
		drop_call(r, job->calls);
}

/* Sends one request of a job, if there is one and room for it. */
static bool
start_one(llm_remote *r, remote_job *job, double now, double *wait)
{
	remote_lane *lane = job->lane;
	remote_call *call;
	llm_error err;

	if (job->given_up.code != LLM_OK)
		fail_rest(r, job);
	if (lane->n_flying >= job->endpoint->concurrency)
		return false; /* the end of a request comes back here */
	if (lane->not_before_ms > now)
	{
		*wait = lane->not_before_ms - now < *wait ? lane->not_before_ms - now : *wait;
		return false;
	}
	if ((call = next_call(job, now, wait, &err)) == NULL)
	{
		if (err.code != LLM_OK)
			job->given_up = err;
		return err.code != LLM_OK;
	}
	if (job->started_ms == 0)
		job->started_ms = now;
	if (remote_call_start(r, call, &err) != LLM_OK)
	{
		remote_units_failed(call, &err);
		drop_call(r, call);
	}
	return true;
}

/* Sends requests, jobs in turn. Returns how long to sleep at most. */
static double
start_calls(llm_remote *r)
{
	double now = remote_now_ms();
	double wait = IDLE_WAIT_MS;
	bool any = true;

	while (any)
	{
		any = false;
		for (remote_job *job = r->jobs; job != NULL; job = job->next)
			any = start_one(r, job, now, &wait) || any;
	}
	return wait;
}

/* ---- the ends of calls --------------------------------------------------------------------- */

/* The endpoint has failed a call for good. */
static void
fail_call(llm_remote *r, remote_call *call, const llm_error *why)
{
	remote_job *job = call->job;

	remote_units_failed(call, why);
	drop_call(r, call);
	if (++job->n_down >= REMOTE_DOWN_AFTER)
		job->given_up = *why;
}

/* Lets a call wait for its next try, or fails it when it has had them all. */
static void
retry_call(llm_remote *r, remote_call *call, const llm_error *why)
{
	remote_lane *lane = call->job->lane;
	bool pause;
	double until;
	double delay;

	call->attempt++;
	delay = remote_call_delay(call, &pause);
	if (call->attempt > call->job->endpoint->retries || delay > REMOTE_PAUSE_MAX)
	{
		fail_call(r, call, why);
		return;
	}
	until = remote_now_ms() + delay;
	if (pause && until > lane->not_before_ms)
		lane->not_before_ms = until;
	remote_call_stop(r, call);
	call->not_before_ms = until;
}

/* Asks for each text of a call by itself. */
static void
split_call(llm_remote *r, remote_call *call, const llm_error *why)
{
	remote_job *job = call->job;
	uint32_t first = call->first;
	uint32_t n = call->n;

	drop_call(r, call);
	for (uint32_t i = 0; i < n; i++)
		if (add_call(job, first + i, 1) == NULL)
			job->given_up = *why;
}

/* Lets a call ask for less. */
static void
simplify_call(llm_remote *r, remote_call *call)
{
	remote_call_stop(r, call);
	call->level = remote_is_labels(call->job) ? REMOTE_PLAIN : call->level + 1;
	call->fell_back = true;
}

/* Takes the reply of a call. */
static void
finish_call(llm_remote *r, remote_call *call)
{
	remote_job *job = call->job;
	llm_error err;

	job->n_down = 0;
	if (remote_read_reply(call, &err) != LLM_OK)
	{
		/* Some servers overlook a response_format that they do not know. */
		if (err.code == LLM_E_PROTOCOL && job->schema != NULL && call->level < REMOTE_PLAIN)
		{
			simplify_call(r, call);
			return;
		}
		remote_units_failed(call, &err);
	}
	else if (call->fell_back && remote_is_labels(job))
		job->lane->labels = call->level;
	else if (call->fell_back && remote_streams(job))
		job->lane->stream = call->level;
	else if (call->fell_back)
		job->lane->schema = call->level;
	drop_call(r, call);
}

/* Does what the end of a request means. */
static void
end_call(llm_remote *r, remote_call *call, CURLcode code)
{
	llm_error err = {0};

	switch (remote_call_judge(call, code, &err))
	{
		case REMOTE_GOOD:
			finish_call(r, call);
			break;
		case REMOTE_RETRY:
			retry_call(r, call, &err);
			break;
		case REMOTE_SIMPLER:
			simplify_call(r, call);
			break;
		case REMOTE_SPLIT:
			split_call(r, call, &err);
			break;
		case REMOTE_REFUSED:
			remote_units_failed(call, &err);
			drop_call(r, call);
			break;
		case REMOTE_FAILED:
			fail_call(r, call, &err);
			break;
	}
}

/* Handles the requests that have ended; false: there was none. */
static bool
end_calls(llm_remote *r)
{
	CURLMsg *message;
	int n_left;
	bool any = false;

	while ((message = curl_multi_info_read(r->multi, &n_left)) != NULL)
	{
		char *call = NULL;
		CURLcode code = message->data.result;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &call);
		end_call(r, (remote_call *) call, code);
		any = true;
	}
	return any;
}

/* ---- the life of a job --------------------------------------------------------------------- */

/* The lane of a URL; idle ones are reused when there are many. NULL: no memory. */
static remote_lane *
find_lane(llm_remote *r, const char *url)
{
	remote_lane *idle = NULL;
	uint32_t n = 0;

	for (remote_lane *lane = r->lanes; lane != NULL; lane = lane->next)
	{
		if (strcmp(lane->url, url) == 0)
			return lane;
		if (lane->n_jobs == 0)
			idle = lane;
		n++;
	}
	if (idle == NULL || n < LANES_KEPT)
	{
		if ((idle = llm_calloc(1, sizeof(*idle))) == NULL)
			return NULL;
		idle->next = r->lanes;
		r->lanes = idle;
	}
	*idle = (remote_lane){.next = idle->next};
	snprintf(idle->url, sizeof(idle->url), "%s", url);
	return idle;
}

/* Frees a job without calls. */
static void
free_job(remote_job *job)
{
	uint64_t n_held = (uint64_t) job->job->n_rows + job->job->n_rows2;

	for (uint64_t i = 0; job->held != NULL && i < n_held; i++)
		llm_free(job->held[i].values);
	llm_json_free(job->schema);
	llm_free(job->held);
	llm_free(job->done);
	llm_free(job->values);
	llm_free(job);
}

/* Ends a job: its owner may free what it points to as soon as it is told. */
static void
end_job(llm_remote *r, remote_job *job, llm_status status, const char *message)
{
	remote_job **link = &r->jobs;
	const llm_job *j = job->job;
	llm_job_stats stats;
	double now = remote_now_ms();

	while (job->calls != NULL)
		drop_call(r, job->calls);
	if (job->lane != NULL)
		job->lane->n_jobs--;
	pthread_mutex_lock(&r->mutex);
	while (*link != job)
		link = &(*link)->next;
	*link = job->next;
	pthread_mutex_unlock(&r->mutex);
	stats = job->stats;
	stats.n_rows = j->n_rows;
	stats.queue_ms = (job->started_ms > 0 ? job->started_ms : now) - job->submitted_ms;
	stats.decode_ms = job->started_ms > 0 ? now - job->started_ms : 0;
	free_job(job);
	if (j->on_done != NULL)
		j->on_done(j->user, status, message, &stats);
}

/* Moves new jobs to the list, oldest first. Returns false when it is time to stop. */
static bool
take_inbox(llm_remote *r)
{
	remote_job **link = &r->jobs;
	remote_job *oldest = NULL;
	bool stop;

	pthread_mutex_lock(&r->mutex);
	while (r->inbox != NULL)
	{
		remote_job *job = r->inbox;

		r->inbox = job->next;
		job->next = oldest;
		oldest = job;
	}
	while (*link != NULL)
		link = &(*link)->next;
	*link = oldest;
	stop = r->stop;
	pthread_mutex_unlock(&r->mutex);
	for (remote_job *job = oldest; job != NULL; job = job->next)
		if ((job->lane = find_lane(r, job->endpoint->url)) != NULL)
			job->lane->n_jobs++;
	return !stop;
}

/* Ends the jobs that are cancelled or finished; all of them when it is time to stop. */
static void
end_jobs(llm_remote *r, bool all)
{
	remote_job *next;

	for (remote_job *job = r->jobs; job != NULL; job = next)
	{
		bool cancelled;

		next = job->next;
		pthread_mutex_lock(&r->mutex);
		cancelled = job->cancelled || all;
		pthread_mutex_unlock(&r->mutex);
		if (cancelled)
			end_job(r, job, LLM_E_CANCELLED, "cancelled by the caller");
		else if (job->lane == NULL)
			end_job(r, job, LLM_E_NOMEM, "out of memory for a job");
		else if (job->cursor == job->n_units && job->n_open == 0)
			end_job(r, job, LLM_OK, "");
	}
}

/* The thread. */
static void *
remote_main(void *arg)
{
	llm_remote *r = arg;
	int n_running;

	while (take_inbox(r))
	{
		double wait;

		end_jobs(r, false);
		wait = start_calls(r);
		curl_multi_perform(r->multi, &n_running);
		if (end_calls(r))
			continue;
		end_jobs(r, false);
		curl_multi_poll(r->multi, NULL, 0, (int) wait + 1, NULL);
	}
	end_jobs(r, true);
	return NULL;
}

/* ---- from other threads -------------------------------------------------------------------- */

/* Initialises libcurl, once in a process. */
static void
init_curl(void)
{
	curl_ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
}

/* Starts the executor. */
llm_status
llm_remote_create(llm_remote **out, llm_error *err)
{
	llm_remote *r = llm_calloc(1, sizeof(*r));

	pthread_once(&curl_once, init_curl);
	if (r == NULL || !curl_ready || (r->multi = curl_multi_init()) == NULL)
	{
		llm_free(r);
		return llm_fail(err, LLM_E_NOMEM, "could not initialise libcurl");
	}
	pthread_mutex_init(&r->mutex, NULL);
	if (pthread_create(&r->thread, NULL, remote_main, r) != 0)
	{
		curl_multi_cleanup(r->multi);
		pthread_mutex_destroy(&r->mutex);
		llm_free(r);
		return llm_fail(err, LLM_E_NOMEM, "could not start the thread of remote endpoints");
	}
	*out = r;
	return LLM_OK;
}

/* Ends the executor. */
void
llm_remote_destroy(llm_remote *r)
{
	if (r == NULL)
		return;
	pthread_mutex_lock(&r->mutex);
	r->stop = true;
	pthread_mutex_unlock(&r->mutex);
	curl_multi_wakeup(r->multi);
	pthread_join(r->thread, NULL);
	curl_multi_cleanup(r->multi);
	while (r->lanes != NULL)
	{
		remote_lane *lane = r->lanes;

		r->lanes = lane->next;
		llm_free(lane);
	}
	pthread_mutex_destroy(&r->mutex);
	llm_free(r);
}

/* Refuses what endpoints cannot do. */
static llm_status
check_job(const llm_endpoint *endpoint, const llm_job *job, llm_error *err)
{
	const char *what = NULL;

	if (job->kind == LLM_JOB_COUNT)
		what = "count tokens";
	else if (job->kind == LLM_JOB_LOGLIK)
		what = "tell likelihoods of given texts";
	else if (job->kind == LLM_JOB_PREWARM)
		what = "be prewarmed";
	else if (job->n_allowed > 0 || (job->flags & LLM_JOB_RULES))
		what = "be held to a list of answers";
	else if (job->kind == LLM_JOB_EMBED && !endpoint->embeds)
		what = "embed; it was registered to generate";
	else if (endpoint->embeds && job->kind != LLM_JOB_EMBED && job->kind != LLM_JOB_RELEVANCE)
		what = "generate; it was registered to embed";
	if (what != NULL)
		return llm_fail(err, LLM_E_UNSUPPORTED,
		                "model \"%s\" is a remote endpoint, which cannot %s", endpoint->name, what);
	if ((job->kind == LLM_JOB_CLASSIFY && job->n_labels == 0) ||
	    (job->kind == LLM_JOB_RELEVANCE && job->n_rows > 0 && job->n_rows2 == 0))
		return llm_fail(err, LLM_E_RANGE, "a job has no labels or no queries");
	if (job->kind == LLM_JOB_CLASSIFY && (job->flags & LLM_JOB_MULTI) &&
	    (uint64_t) job->n_rows * job->n_labels > UINT32_MAX)
		return llm_fail(err, LLM_E_RANGE, "%u rows of %u labels are too many for one job",
		                job->n_rows, job->n_labels);
	return LLM_OK;
}

/* Makes a job of the executor. */
static llm_status
make_job(const llm_endpoint *endpoint, const llm_job *job, remote_job **out, llm_error *err)
{
	remote_job *made = llm_calloc(1, sizeof(*made));
	size_t n_rows = job->n_rows;
	bool parts;

	if (made == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a job");
	made->endpoint = endpoint;
	made->job = job;
	made->submitted_ms = remote_now_ms();
	parts = remote_is_multi(made) || remote_is_cosine(made);
	made->n_units = remote_is_cosine(made) ? job->n_rows + job->n_rows2
	                : parts                ? job->n_rows * job->n_labels
	                                       : job->n_rows;
	made->done = llm_calloc(n_rows + 1, sizeof(bool));
	made->values = llm_calloc(job->n_labels + 1, sizeof(float));
	if (parts)
		made->held = llm_calloc(n_rows + job->n_rows2 + 1, sizeof(remote_held));
	if (made->done == NULL || made->values == NULL || (parts && made->held == NULL))
		llm_fail(err, LLM_E_NOMEM, "out of memory for a job");
	else if (job->schema.bytes == NULL ||
	         llm_json_parse(job->schema.bytes, job->schema.n, &made->schema, err) == LLM_OK)
	{
		*out = made;
		return LLM_OK;
	}
	free_job(made);
	return err->code;
}

/* Submits a job. */
llm_status
llm_remote_submit(llm_remote *r, const llm_endpoint *endpoint, const llm_job *job, uint64_t *id,
                  llm_error *err)
{
	remote_job *made = NULL;

	if (check_job(endpoint, job, err) != LLM_OK || make_job(endpoint, job, &made, err) != LLM_OK)
		return err->code;
	pthread_mutex_lock(&r->mutex);
	*id = made->id = ++r->next_id;
	made->next = r->inbox;
	r->inbox = made;
	pthread_mutex_unlock(&r->mutex);
	curl_multi_wakeup(r->multi);
	return LLM_OK;
}

/* Marks the jobs with an id, or of a caller. */
static void
mark_cancelled(llm_remote *r, uint64_t id, uint64_t caller, bool by_caller)
{
	remote_job *lists[2];

	pthread_mutex_lock(&r->mutex);
	lists[0] = r->inbox;
	lists[1] = r->jobs;
	for (int i = 0; i < 2; i++)
		for (remote_job *job = lists[i]; job != NULL; job = job->next)
			if (by_caller ? job->job->caller == caller : job->id == id)
				job->cancelled = true;
	pthread_mutex_unlock(&r->mutex);
	curl_multi_wakeup(r->multi);
}

/* Cancels a job. */
void
llm_remote_cancel(llm_remote *r, uint64_t id)
{
	mark_cancelled(r, id, 0, false);
}

/* Cancels a caller's jobs. */
void
llm_remote_cancel_caller(llm_remote *r, uint64_t caller)
{
	mark_cancelled(r, 0, caller, true);
}
