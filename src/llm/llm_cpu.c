/*
 * llm_cpu.c: the CPU backend: its table, its memory, and the choice of the instruction set.
 *
 * Device memory is host memory, so upload and download copy and sync does nothing. What an op needs
 * beyond its arguments comes from scratch buffers that grow to the largest pass and then stay: a
 * forward pass in the steady state allocates nothing.
 */
#include "llm_cpu.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#if defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "llm_alloc.h"
#include "llm_check.h"
#include "llm_cpu_i8.h"

#define ALLOC_HEADER 64 /* keeps the size of a block, and its alignment */

/* Keeps the message of a failure; see the header. */
pp_result
llm_cpu_fail(llm_cpu *cpu, pp_result result, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(cpu->base.message, sizeof(cpu->base.message), fmt, args);
	va_end(args);
	return result;
}

/* A scratch buffer; grows by doubling so that slowly growing passes do not allocate each time. */
void *
llm_cpu_scratch(llm_cpu *cpu, llm_cpu_slot slot, uint64_t n, uint64_t size)
{
	llm_cpu_buffer *b = &cpu->scratch[slot];
	uint64_t bytes;
	uint64_t grown;

	if (!pp_mul_ok(n, size, &bytes) || !pp_add_ok(bytes, 64, &bytes) || bytes > SIZE_MAX / 2)
	{
		llm_cpu_fail(cpu, PP_E_NOMEM, "scratch memory of this pass is too large");
		return NULL;
	}
	if (bytes <= b->bytes)
		return b->data;
	grown = bytes > 2 * (uint64_t) b->bytes ? bytes : 2 * (uint64_t) b->bytes;
	llm_free(b->data);
	b->data = llm_malloc_aligned((size_t) grown, 64);
	b->bytes = b->data != NULL ? (size_t) grown : 0;
	if (b->data == NULL)
		llm_cpu_fail(cpu, PP_E_NOMEM, "out of memory for %llu bytes of scratch",
		             (unsigned long long) grown);
	return b->data;
}

/* Splits rows so that a piece is worth handing out: at least 16 kB, at most 1/4 of a thread's. */
void
llm_cpu_rows(llm_cpu *cpu, uint32_t n_rows, size_t bytes_row, llm_pool_fn fn, void *arg)
{
	const uint32_t n_pieces = 4 * llm_pool_n_threads(cpu->pool);
	const size_t least = 16384 / (bytes_row + 1) + 1;
	uint32_t grain = n_rows / n_pieces;

	if (grain < least)
		grain = least < n_rows ? (uint32_t) least : n_rows;
	llm_pool_for(cpu->pool, n_rows, grain, fn, arg);
}

/* Allocates device memory; the size is kept in front of it. */
static void *
cpu_alloc(pp_backend *be, size_t bytes)
{
	llm_cpu *cpu = llm_cpu_of(be);
	uint8_t *block;

	if (bytes > SIZE_MAX - ALLOC_HEADER)
		return NULL;
	block = llm_malloc_aligned(bytes + ALLOC_HEADER, 64);
	if (block == NULL)
		return NULL;
	memcpy(block, &bytes, sizeof(bytes));
	cpu->bytes_alloc += bytes;
	return block + ALLOC_HEADER;
}

/* Frees device memory; NULL is fine. */
static void
cpu_release(pp_backend *be, void *dev)
{
	uint8_t *block = dev;
	size_t bytes;

	if (dev == NULL)
		return;
	block -= ALLOC_HEADER;
	memcpy(&bytes, block, sizeof(bytes));
	llm_cpu_of(be)->bytes_alloc -= bytes;
	llm_free(block);
}

/* Host to device: a copy. */
static pp_result
cpu_upload(pp_backend *be, void *dev_dst, const void *src, size_t bytes)
{
	(void) be;
	if (bytes > 0)
		memcpy(dev_dst, src, bytes);
	return PP_OK;
}

/* Device to host: a copy. */
static pp_result
cpu_download(pp_backend *be, void *dst, const void *dev_src, size_t bytes)
{
	(void) be;
	if (bytes > 0)
		memcpy(dst, dev_src, bytes);
	return PP_OK;
}

/* Every op has finished when it returns. */
static pp_result
cpu_sync(pp_backend *be)
{
	(void) be;
	return PP_OK;
}

/* The bytes in use; what the machine has left is the operating system's to say. */
static void
cpu_memory_info(pp_backend *be, pp_memory_info *info)
{
	const llm_cpu *cpu = llm_cpu_of(be);

	*info = (pp_memory_info){.bytes_weights = cpu->bytes_weights, .bytes_kv = cpu->kv.bytes};
	info->bytes_scratch = cpu->bytes_alloc;
	for (int i = 0; i < N_SCRATCH; i++)
		info->bytes_scratch += cpu->scratch[i].bytes;
}

/* Activations are floats. */
static pp_result
cpu_download_act(pp_backend *be, float *dst, const pp_act *dev_src, size_t n)
{
	return cpu_download(be, dst, dev_src, n * sizeof(pp_act));
}

/* A copy, as activations are floats. */
static pp_result
cpu_narrow(pp_backend *be, pp_act *dev_out, const float *dev_x, size_t n)
{
	return cpu_upload(be, dev_out, dev_x, n * sizeof(pp_act));
}

/* Ops read their arguments where they are: nothing to upload, nothing to replay. */
static pp_result
cpu_pass_begin(pp_backend *be, const pp_pass *pass, bool *replayed)
{
	(void) be;
	(void) pass;
	*replayed = false;
	return PP_OK;
}

static const pp_ops cpu_ops = {
    .alloc = cpu_alloc,
    .release = cpu_release,
    .upload = cpu_upload,
    .download = cpu_download,
    .sync = cpu_sync,
    .memory_info = cpu_memory_info,
    .destroy = pp_cpu_destroy,
    .download_act = cpu_download_act,
    .narrow = cpu_narrow,
    .pass_begin = cpu_pass_begin,
    .pass_end = cpu_sync,
    .matrix_create = llm_cpu_matrix_create,
    .matrix_destroy = llm_cpu_matrix_destroy,
    .embed = llm_cpu_embed,
    .add_rows = llm_cpu_add_rows,
    .norm = llm_cpu_norm,
    .norm_post = llm_cpu_norm_post,
    .norm_rows = llm_cpu_norm_rows,
    .add = llm_cpu_add,
    .matmul = llm_cpu_matmul,
    .matmul_float = llm_cpu_matmul,
    .matmul_columns = llm_cpu_matmul_columns,
    .gather = llm_cpu_gather,
    .activate = llm_cpu_activate,
    .mlp = llm_cpu_mlp,
    .softcap = llm_cpu_softcap,
    .qkv_prepare = llm_cpu_qkv_prepare,
    .attention = llm_cpu_attention,
    .kv_page_tokens = llm_cpu_kv_page_tokens,
    .kv_page_bytes = llm_cpu_kv_page_bytes,
    .kv_create = llm_cpu_kv_create,
    .kv_destroy = llm_cpu_kv_destroy,
    .kv_copy = llm_cpu_kv_copy,
    .kv_move = llm_cpu_kv_move,
    .kv_clear = llm_cpu_kv_clear,
    .pool = llm_cpu_pool,
    .logsumexp = llm_cpu_logsumexp,
    .top = llm_cpu_top,
    .sum = llm_cpu_sum,
};

#if defined(__x86_64__)
/* Asks the kernel for tile registers (Linux: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)). */
static bool
request_tiles(void)
{
	const long request = 0x1023;
	const long tile_data = 18;

	return syscall(SYS_arch_prctl, request, tile_data) == 0;
}

/* Whether the processor has the AMX types that the tiles use (CPUID 7.0, EDX bits 22, 24, 25). */
static bool
has_amx(void)
{
	uint32_t a = 7;
	uint32_t b;
	uint32_t c = 0;
	uint32_t d;

	if (__builtin_cpu_supports("avx512bf16") == 0)
		return false;
	__asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return (d >> 22 & 1) != 0 && (d >> 24 & 1) != 0 && (d >> 25 & 1) != 0;
}
#endif

/* The best level of this machine; see the header. */
llm_cpu_isa
llm_cpu_detect(void)
{
#if defined(__x86_64__)
	__builtin_cpu_init();
	if (!__builtin_cpu_supports("avx2"))
		return LLM_ISA_BASE;
	if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
	    !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
		return LLM_ISA_AVX2;
	if (!__builtin_cpu_supports("avx512vnni"))
		return LLM_ISA_AVX512;
	return has_amx() && request_tiles() ? LLM_ISA_AMX : LLM_ISA_VNNI;
#else
	return LLM_ISA_BASE;
#endif
}

/* Makes a backend with at most the given level. */
pp_backend *
llm_cpu_create_isa(uint32_t n_threads, llm_cpu_isa isa)
{
	const llm_cpu_isa best = llm_cpu_detect();
	llm_cpu *cpu = llm_calloc(1, sizeof(*cpu));

	if (cpu == NULL)
		return NULL;
	cpu->base.ops = &cpu_ops;
	cpu->base.name = "cpu";
	cpu->base.act_bytes = sizeof(pp_act);
	cpu->base.pass_tokens_max = 2048;
	cpu->isa = isa < best ? isa : best;
	cpu->kernels = llm_cpu_kernels_of(cpu->isa);
	cpu->matmul_i8 = cpu->kernels->matmul_i8;
#if defined(__x86_64__)
	if (cpu->isa >= LLM_ISA_AMX)
		cpu->matmul_i8 = llm_cpu_i8_amx;
	else if (cpu->isa >= LLM_ISA_VNNI)
		cpu->matmul_i8 = llm_cpu_i8_vnni;
	else if (cpu->isa >= LLM_ISA_AVX2)
		cpu->matmul_i8 = llm_cpu_i8_avx2;
#endif
	cpu->pool = llm_pool_create(n_threads);
	if (cpu->pool == NULL)
	{
		llm_free(cpu);
		return NULL;
	}
	return &cpu->base;
}

/* Makes a backend for this machine. */
pp_backend *
pp_cpu_create(uint32_t n_threads)
{
	return llm_cpu_create_isa(n_threads, LLM_ISA_AMX);
}

/* Frees the backend and what it owns; matrices and memory must have been freed before. */
void
pp_cpu_destroy(pp_backend *be)
{
	llm_cpu *cpu;

	if (be == NULL)
		return;
	cpu = llm_cpu_of(be);
	llm_cpu_kv_destroy(be);
	llm_cpu_rope_free(cpu);
	for (int i = 0; i < N_SCRATCH; i++)
		llm_free(cpu->scratch[i].data);
	llm_pool_free(cpu->pool);
	llm_free(cpu);
}
