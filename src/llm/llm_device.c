/*
 * llm_device.c: see llm_device.h.
 *
 * The engine is built without CUDA. What knows it is prepack_cuda.so, looked for beside the program
 * and opened when it is needed; it stays open, as its runtime cannot be unloaded. Before it is
 * touched the driver is asked for its devices by libcuda's own C interface, so that a machine
 * without a card pays for one failed dlopen and no more.
 */
#include "llm_device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OBJECT "prepack_cuda.so"

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

/* The number behind "cuda:", 0 for "cuda"; false: it names no such device. */
static bool
device_number(const char *device, unsigned long *number)
{
	char *end;

	*number = 0;
	if (strcmp(device, "cuda") == 0)
		return true;
	if (strncmp(device, "cuda:", 5) != 0 || device[5] < '0' || device[5] > '9')
		return false;
	*number = strtoul(device + 5, &end, 10);
	return *end == '\0' && *number < 1024;
}

/* Resolves a setting; see the header. */
llm_status
llm_device_find(const char *device, char name[LLM_DEVICE_NAME], llm_error *err)
{
	bool any = device == NULL || strcmp(device, "auto") == 0;
	unsigned long number = 0;
	llm_error why = {0};
	int n_devices;

	snprintf(name, LLM_DEVICE_NAME, "cpu");
	if (!any && strcmp(device, "cpu") == 0)
		return LLM_OK;
	if (!any && !device_number(device, &number))
		return llm_fail(err, LLM_E_UNSUPPORTED,
		                "device \"%.64s\" is none of auto, cpu, cuda, cuda:N", device);
	n_devices = count_devices();
	if (n_devices <= 0 || number >= (unsigned long) n_devices)
		llm_fail(&why, LLM_E_UNSUPPORTED, "the driver has %d CUDA devices", n_devices);
	else if (open_object(&why) != NULL)
		snprintf(name, LLM_DEVICE_NAME, "cuda:%lu", number);
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

/* Makes the backend. */
llm_status
llm_device_open(const char *name, uint32_t n_threads, pp_backend **out, llm_error *err)
{
	char message[256] = "";
	unsigned long number;
	void *object;
	pp_device_create_fn create;
	pp_result result;

	*out = NULL;
	if (strcmp(name, "cpu") == 0)
	{
		*out = pp_cpu_create(n_threads);
		return *out != NULL
		           ? LLM_OK
		           : llm_fail(err, LLM_E_NOMEM, "out of memory while creating the backend");
	}
	if (!device_number(name, &number))
		return llm_fail(err, LLM_E_UNSUPPORTED, "device \"%.64s\" is not known", name);
	if ((object = open_object(err)) == NULL)
		return err->code;
	if (!find_function(object, "pp_cuda_create", &create, sizeof(create)))
		return llm_fail(err, LLM_E_UNSUPPORTED, "%s makes no backend", OBJECT);
	if ((result = create((uint32_t) number, out, message, sizeof(message))) != PP_OK)
		return llm_fail(err, result == PP_E_NOMEM ? LLM_E_NOMEM : LLM_E_DEVICE,
		                "device %s does not start: %.250s", name, message);
	return LLM_OK;
}
