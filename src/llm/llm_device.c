/*
 * llm_device.c: see llm_device.h.
 *
 * The engine is built without CUDA. What knows it is prepack_cuda.so, looked for beside the program
 * and opened when it is needed; it stays open, as its runtime cannot be unloaded. Before it is
 * touched the driver is asked for its devices by libcuda's own C interface, so that a machine
 * without a card pays for one failed dlopen and no more.
 */
#include "llm_device.h"
#include "llm_ranks.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OBJECT    "prepack_cuda.so"
#define CARDS_MAX 100 /* of a host: two digits */

/* A function of a shared object. POSIX lets void * hold one, ISO C has no cast for it. */
static bool
find_function(void *object, const char *name, void *function, size_t bytes)
{
	void *symbol = object != NULL ? dlsym(object, name) : NULL;

	memcpy(function, &symbol, bytes);
	return symbol != NULL;
}

/* How many devices the driver has; 0 when there is no driver. */
static int
count_devices(void)
{
	void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
	int (*init)(unsigned int flags);
	int (*count)(int *n);
	int n = 0;

	if (!find_function(driver, "cuInit", &init, sizeof(init)) ||
	    !find_function(driver, "cuDeviceGetCount", &count, sizeof(count)) || init(0) != 0 ||
	    count(&n) != 0)
		return 0;
	return n;
}

/* Opens the object beside the program; NULL with a message. */
static void *
open_object(llm_error *err)
{
	char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - sizeof(OBJECT) - 1);
	char *slash;
	void *object;
	pp_device_abi_fn abi;

	path[n > 0 ? n : 0] = '\0';
	slash = strrchr(path, '/');
	if (slash == NULL)
	{
		llm_fail(err, LLM_E_UNSUPPORTED, "could not find out where the program lies");
		return NULL;
	}
	memcpy(slash + 1, OBJECT, sizeof(OBJECT));
	if (access(path, R_OK) != 0)
		llm_fail(err, LLM_E_UNSUPPORTED, "there is no %.400s: build it with \"make cuda\"", path);
	else if ((object = dlopen(path, RTLD_NOW | RTLD_LOCAL)) == NULL)
		llm_fail(err, LLM_E_UNSUPPORTED, "could not open it: %.400s", dlerror());
	else if (!find_function(object, "pp_cuda_abi", &abi, sizeof(abi)) || abi() != PP_ABI)
		llm_fail(err, LLM_E_UNSUPPORTED, "%.400s belongs to another version", path);
	else
		return object;
	return NULL;
}

/* The cards that a setting names. */
typedef struct card_list
{
	unsigned long number[PP_RANKS_MAX];
	uint32_t n;
} card_list;

/* The numbers behind "cuda:", 0 for "cuda"; false: it names no such devices. */
static bool
parse_cards(const char *device, card_list *cards)
{
	const char *at = device + 5;
	char *end;

	*cards = (card_list){.n = 1};
	if (strcmp(device, "cuda") == 0)
		return true;
	if (strncmp(device, "cuda:", 5) != 0)
		return false;
	for (cards->n = 0; cards->n < PP_RANKS_MAX && *at >= '0' && *at <= '9'; at = end + 1)
	{
		unsigned long number = strtoul(at, &end, 10);

		cards->number[cards->n++] = number;
		if (number >= CARDS_MAX || *end != '+')
			return number < CARDS_MAX && *end == '\0';
	}
	return false;
}

/* The largest number of a list. */
static unsigned long
last_card(const card_list *cards)
{
	unsigned long last = 0;

	for (uint32_t i = 0; i < cards->n; i++)
		last = cards->number[i] > last ? cards->number[i] : last;
	return last;
}

/* Whether the cards of a list are one and the same, or each another; else *mixed. */
static bool
one_card(const card_list *cards, bool *mixed)
{
	uint32_t n_equal = 0;

	for (uint32_t i = 0; i < cards->n; i++)
		for (uint32_t k = 0; k < i; k++)
			n_equal += cards->number[i] == cards->number[k];
	*mixed = n_equal > 0 && n_equal != cards->n * (cards->n - 1) / 2;
	return n_equal > 0;
}

/* Writes a list as it is read. */
static void
name_cards(const card_list *cards, char name[LLM_DEVICE_NAME])
{
	int used = snprintf(name, LLM_DEVICE_NAME, "cuda:%lu", cards->number[0]);

	for (uint32_t i = 1; i < cards->n; i++)
		used += snprintf(name + used, (size_t) (LLM_DEVICE_NAME - used), "+%lu", cards->number[i]);
}

/* Resolves a setting; see the header. */
llm_status
llm_device_find(const char *device, char name[LLM_DEVICE_NAME], llm_error *err)
{
	bool any = device == NULL || strcmp(device, "auto") == 0;
	card_list cards = {.n = 1};
	llm_error why = {0};
	bool mixed = false;
	int n_devices;

	snprintf(name, LLM_DEVICE_NAME, "cpu");
	if (!any && strcmp(device, "cpu") == 0)
		return LLM_OK;
	if (!any && !parse_cards(device, &cards))
		return llm_fail(err, LLM_E_UNSUPPORTED,
		                "device \"%.64s\" is none of auto, cpu, cuda, cuda:N, and no list "
		                "cuda:N+M of up to %u cards",
		                device, PP_RANKS_MAX);
	one_card(&cards, &mixed);
	if (mixed)
		return llm_fail(err, LLM_E_UNSUPPORTED, "device \"%.64s\" names a card twice", device);
	n_devices = count_devices();
	if (n_devices <= 0 || last_card(&cards) >= (unsigned long) n_devices)
		llm_fail(&why, LLM_E_UNSUPPORTED, "the driver has %d CUDA devices", n_devices);
	else if (open_object(&why) != NULL)
		name_cards(&cards, name);
	if (any || why.code == LLM_OK)
		return LLM_OK;
	return llm_fail(err, why.code, "device \"%.64s\" is not available: %.400s", device,
	                why.message);
}

/* All cards for "cuda". */
uint32_t
llm_device_count(const char *device)
{
	int n = device != NULL && strcmp(device, "cuda") == 0 ? count_devices() : 1;

	return n > 0 ? (uint32_t) n : 1;
}

/* Makes the backend of one card. */
static llm_status
open_card(void *object, unsigned long number, pp_backend **out, llm_error *err)
{
	char message[256] = "";
	pp_device_create_fn create;
	pp_result result;

	if (!find_function(object, "pp_cuda_create", &create, sizeof(create)))
		return llm_fail(err, LLM_E_UNSUPPORTED, "%s makes no backend", OBJECT);
	if ((result = create((uint32_t) number, out, message, sizeof(message))) != PP_OK)
		return llm_fail(err, result == PP_E_NOMEM ? LLM_E_NOMEM : LLM_E_DEVICE,
		                "device cuda:%lu does not start: %.250s", number, message);
	return LLM_OK;
}

/* What ranks on cards of their own exchange by; none where they share one. */
static llm_status
open_link(void *object, const card_list *cards, pp_backend *const *ranks, pp_link **out,
          llm_error *err)
{
	char message[256] = "";
	pp_device_link_fn link;
	pp_result result;
	bool mixed;

	*out = NULL;
	if (one_card(cards, &mixed))
		return LLM_OK;
	if (!find_function(object, "pp_cuda_link", &link, sizeof(link)))
		return llm_fail(err, LLM_E_UNSUPPORTED, "%s makes no links", OBJECT);
	if ((result = link(ranks, cards->n, out, message, sizeof(message))) != PP_OK)
		return llm_fail(err, result == PP_E_DEVICE ? LLM_E_DEVICE : LLM_E_UNSUPPORTED, "%.250s",
		                message);
	return LLM_OK;
}

/* Opens the cards of a list, then makes one backend of them. */
static llm_status
open_ranks(void *object, const card_list *cards, const char *name, pp_backend **out, llm_error *err)
{
	pp_backend *ranks[PP_RANKS_MAX] = {NULL};
	pp_link *link = NULL;
	llm_status status = LLM_OK;
	uint32_t n = 0;

	for (; status == LLM_OK && n < cards->n; n++)
		status = open_card(object, cards->number[n], &ranks[n], err);
	if (status == LLM_OK)
		status = open_link(object, cards, ranks, &link, err);
	if (status == LLM_OK)
		return llm_ranks_create(ranks, n, link, name, out, err);
	for (uint32_t i = 0; i < n; i++)
		if (ranks[i] != NULL)
			ranks[i]->ops->destroy(ranks[i]);
	return status;
}

/* Makes the backend. */
llm_status
llm_device_open(const char *name, uint32_t n_threads, pp_backend **out, llm_error *err)
{
	card_list cards;
	void *object;

	*out = NULL;
	if (strcmp(name, "cpu") == 0)
	{
		*out = pp_cpu_create(n_threads);
		return *out != NULL
		           ? LLM_OK
		           : llm_fail(err, LLM_E_NOMEM, "out of memory while creating the backend");
	}
	if (!parse_cards(name, &cards))
		return llm_fail(err, LLM_E_UNSUPPORTED, "device \"%.64s\" is not known", name);
	if ((object = open_object(err)) == NULL)
		return err->code;
	if (cards.n == 1)
		return open_card(object, cards.number[0], out, err);
	return open_ranks(object, &cards, name, out, err);
}
