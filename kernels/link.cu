/*
 * link.cu: how ranks on several cards exchange what they computed: NCCL's all-gather.
 *
 * Only bytes are moved; they are added by the op sum, in the order of the ranks. NCCL's own sums
 * depend on algorithm and message size, and so on the batch.
 *
 * The library is opened when the first link is made and stays open; nothing else needs it, and a
 * machine with one card has no use for it. Its few functions are declared here as nccl.h does
 * (2.x, whose interface is stable); two of its types are pointers and ints to us.
 *
 * When a card fails, the others wait in the all-gather for it, for ever: wait asks every stream and
 * every communicator by turns, and aborts all of them at the first failure. Not for two threads at
 * a time.
 */
#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <new>

#include "cuda.cuh"

typedef struct nccl_comm nccl_comm; /* ncclComm_t is a pointer to it */

#define NCCL_SUCCESS     0
#define NCCL_IN_PROGRESS 7
#define NCCL_UINT8       1

/* The functions of libnccl.so.2 that are used. */
struct nccl_api
{
	int (*init_all)(nccl_comm **comms, int n, const int *devices);
	int (*all_gather)(const void *from, void *to, size_t count, int type, nccl_comm *comm,
	                  cudaStream_t stream);
	int (*group_start)(void);
	int (*group_end)(void);
	int (*async_error)(nccl_comm *comm, int *error);
	int (*abort)(nccl_comm *comm);
	int (*destroy)(nccl_comm *comm);
	const char *(*error_string)(int error);
};

struct cuda_link
{
	pp_link base; /* first: its functions get a pointer to it */
	nccl_api api;
	pp_cuda *rank[PP_RANKS_MAX];
	nccl_comm *comm[PP_RANKS_MAX]; /* NULL once aborted */
	uint32_t n;
	bool failed;
};

/* Finds a function of the library. */
template <typename F>
static bool
find(void *library, const char *name, F *function)
{
	void *symbol = dlsym(library, name);

	memcpy(function, &symbol, sizeof(*function));
	return symbol != NULL;
}

/* Opens the library; false with a message. */
static bool
nccl_open(nccl_api *api, char *message, size_t bytes)
{
	void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);

	if (library == NULL)
		snprintf(message, bytes, "a model on several cards needs NCCL: %.150s", dlerror());
	else if (!find(library, "ncclCommInitAll", &api->init_all) ||
	         !find(library, "ncclAllGather", &api->all_gather) ||
	         !find(library, "ncclGroupStart", &api->group_start) ||
	         !find(library, "ncclGroupEnd", &api->group_end) ||
	         !find(library, "ncclCommGetAsyncError", &api->async_error) ||
	         !find(library, "ncclCommAbort", &api->abort) ||
	         !find(library, "ncclCommDestroy", &api->destroy) ||
	         !find(library, "ncclGetErrorString", &api->error_string))
		snprintf(message, bytes, "libnccl.so.2 lacks functions of NCCL 2");
	else
		return true;
	return false;
}

/* Fails for good: no rank goes on waiting for another. */
static pp_result
link_fail(cuda_link *l, const char *what, const char *why)
{
	if (!l->failed)
		snprintf(l->base.message, sizeof(l->base.message), "%s: %.200s", what, why);
	l->failed = true;
	for (uint32_t r = 0; r < l->n; r++)
	{
		if (l->comm[r] != NULL)
			l->api.abort(l->comm[r]);
		l->comm[r] = NULL;
	}
	return PP_E_DEVICE;
}

/* One group: a gather of every rank, behind what its stream holds. */
static pp_result
link_gather(pp_link *link, const void *const *dev_own, void *const *dev_all, size_t bytes)
{
	cuda_link *l = (cuda_link *) link;
	int error;
	int end;

	if (l->failed)
		return PP_E_DEVICE;
	if (bytes == 0)
		return PP_OK;
	error = l->api.group_start();
	for (uint32_t r = 0; error == NCCL_SUCCESS && r < l->n; r++)
	{
		cudaSetDevice(l->rank[r]->device);
		error = l->api.all_gather(dev_own[r], dev_all[r], bytes, NCCL_UINT8, l->comm[r],
		                          l->rank[r]->stream);
	}
	end = l->api.group_end();
	error = error == NCCL_SUCCESS ? end : error;
	return error == NCCL_SUCCESS ? PP_OK : link_fail(l, "NCCL", l->api.error_string(error));
}

/* Asks every rank once; *busy when one is not done. */
static pp_result
link_poll(cuda_link *l, bool *busy)
{
	for (uint32_t r = 0; r < l->n; r++)
	{
		cudaError_t error;
		int async = NCCL_SUCCESS;
		int asked;

		cudaSetDevice(l->rank[r]->device);
		error = cudaStreamQuery(l->rank[r]->stream);
		if (error != cudaSuccess && error != cudaErrorNotReady)
			return link_fail(l, l->rank[r]->name, cudaGetErrorString(error));
		*busy = *busy || error == cudaErrorNotReady;
		asked = l->api.async_error(l->comm[r], &async);
		async = asked == NCCL_SUCCESS ? async : asked;
		if (async != NCCL_SUCCESS && async != NCCL_IN_PROGRESS)
			return link_fail(l, "NCCL", l->api.error_string(async));
	}
	return PP_OK;
}

/* Polls until all are done. */
static pp_result
link_wait(pp_link *link)
{
	cuda_link *l = (cuda_link *) link;
	pp_result result = l->failed ? PP_E_DEVICE : PP_OK;
	bool busy = true;

	while (result == PP_OK && busy)
	{
		busy = false;
		if ((result = link_poll(l, &busy)) == PP_OK && busy)
			sched_yield();
	}
	(void) cudaGetLastError(); /* "not ready" is not of the next launch */
	return result;
}

/* Frees it. What runs has ended, or is given up. */
static void
link_destroy(pp_link *link)
{
	cuda_link *l = (cuda_link *) link;

	link_wait(link);
	for (uint32_t r = 0; r < l->n; r++)
		if (l->comm[r] != NULL)
			l->api.destroy(l->comm[r]);
	delete l;
}

/* Makes a link between backends of this object on cards of their own; see kernels.h. */
extern "C" __attribute__((visibility("default"))) pp_result
pp_cuda_link(pp_backend *const *ranks, uint32_t n_ranks, pp_link **out, char *message, size_t bytes)
{
	cuda_link *l = new (std::nothrow) cuda_link();
	int devices[PP_RANKS_MAX];
	int error;

	*out = NULL;
	if (l == NULL || n_ranks > PP_RANKS_MAX || !nccl_open(&l->api, message, bytes))
	{
		if (l == NULL || n_ranks > PP_RANKS_MAX)
			snprintf(message, bytes, "no memory for a link of %u ranks", n_ranks);
		delete l;
		return PP_E_UNSUPPORTED;
	}
	for (uint32_t r = 0; r < n_ranks; r++)
	{
		l->rank[r] = cuda_of(ranks[r]);
		devices[r] = l->rank[r]->device;
	}
	if ((error = l->api.init_all(l->comm, (int) n_ranks, devices)) != NCCL_SUCCESS)
	{
		snprintf(message, bytes, "NCCL finds no way between the cards: %.150s",
		         l->api.error_string(error));
		delete l;
		return PP_E_DEVICE;
	}
	l->n = n_ranks;
	l->base.gather = link_gather;
	l->base.wait = link_wait;
	l->base.destroy = link_destroy;
	*out = &l->base;
	return PP_OK;
}
