/*
 * cuda_host.cu: the coroutines of cuda_host.cuh, and a runtime whose device memory is the host's.
 *
 * A thread that waits gives way to the same lane of a random warp: lanes of a warp run in step,
 * warps as far apart as barriers let them. A barrier that not all threads come to ends the program.
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>
#include <vector>

#include "cuda_host.cuh"

#define THREADS_MAX 1024
#define STACK_BYTES (256u << 10)
#define PATIENCE    10000000 /* turns without progress */

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
alignas(1024) char host_anchor[1024];

/* A copy on its way. */
struct copy
{
	void *to;
	const void *from;
	size_t n;
	bool valid;
};

/* A thread. */
struct coroutine
{
	ucontext_t context; /* where it begins */
	jmp_buf at;         /* where it waits: unlike swapcontext these make no system call */
	std::vector<char> stack;
	std::vector<std::vector<copy>> groups; /* the last one is open */
	bool begun, ended;
};

/* A barrier: how many have come, and how often it has opened. */
struct barrier
{
	int come;
	int opened;
};

static coroutine threads[THREADS_MAX];
static int n_threads, n_ended, running;
static barrier block_barrier, warp_barriers[THREADS_MAX / 32];
static host_word words[THREADS_MAX / 32][32];
static ucontext_t launcher;
static void (*the_kernel)(const void *);
static const void *the_args;
static uint32_t random_state = 1;
alignas(1024) static char dynamic_shared[256 << 10];

/* See cuda_host.cuh. */
void *
host_shared()
{
	return dynamic_shared;
}

/* See cuda_host.cuh. */
host_word *
host_warp()
{
	return words[running / 32];
}

/*
 * Picks who runs next: not this thread if another one is left. A warp keeps the turn for a while,
 * so that it may run ahead of the others as far as barriers let it.
 */
static int
pick()
{
	int warp = running / 32;
	int next;

	random_state = random_state * 1664525u + 1013904223u;
	if (random_state >> 8 < (1u << 24) / 512)
		warp = (int) (random_state % 8191 % (uint32_t) (n_threads / 32));
	next = warp * 32 + (running + 1) % 32;
	for (int i = 0; i < n_threads && (threads[next].ended || next == running); i++)
		next = (next + 1) % n_threads;
	return next;
}

/* Goes on with a thread where it waits. */
static void
become(int next)
{
	coroutine *t = &threads[next];

	running = next;
	threadIdx.x = (unsigned) next;
	if (t->begun)
		_longjmp(t->at, 1);
	t->begun = true;
	setcontext(&t->context);
}

/* Lets another thread run. */
static void
give_way()
{
	int next = pick();

	if (next != running && _setjmp(threads[running].at) == 0)
		become(next);
}

/* Waits until all of n have come. */
static void
come_to(barrier *b, int n)
{
	int opened = b->opened;

	if (++b->come >= n)
	{
		b->come = 0;
		b->opened++;
		return;
	}
	for (int turns = 0; b->opened == opened; turns++)
	{
		if (turns == PATIENCE)
		{
			printf("cuda_host: %d of %d threads are at a barrier\n", b->come, n);
			abort();
		}
		give_way();
	}
}

/* See cuda_host.cuh. */
void
__syncthreads()
{
	come_to(&block_barrier, n_threads - n_ended);
}

/* See cuda_host.cuh. */
void
__syncwarp()
{
	come_to(&warp_barriers[running / 32], 32);
}

/* See cuda_host.cuh. */
void
host_copy(void *to, const void *from, size_t n, bool valid)
{
	if ((size_t) to % n != 0 || (valid && (size_t) from % n != 0))
	{
		printf("cuda_host: cp.async of %zu bytes from %p to %p\n", n, from, to);
		abort();
	}
	memset(to, 0x7f, n);
	threads[running].groups.back().push_back(copy{to, from, n, valid});
}

/* See cuda_host.cuh. */
void
host_commit()
{
	threads[running].groups.emplace_back();
}

/* See cuda_host.cuh. */
void
host_wait(int n)
{
	std::vector<std::vector<copy>> &groups = threads[running].groups;

	while ((int) groups.size() - 1 > n)
	{
		for (const copy &c : groups.front())
			if (c.valid)
				memcpy(c.to, c.from, c.n);
			else
				memset(c.to, 0, c.n);
		groups.erase(groups.begin());
	}
}

/* --- the bulk copy engine -------------------------------------------------------------------- */

/* What stands in the 64 bits of a barrier. */
struct phase_barrier
{
	uint32_t expected : 15, missing : 15, parity : 1;
	int32_t bytes; /* announced and not brought yet; copies may be ahead of their announcement */
};

/* A copy that the engine has not made yet. */
struct bulk_copy
{
	void *to;
	std::vector<char> what;
	phase_barrier *full;
};

/* What stands in a map. */
struct matrix_map
{
	const bf16 *data;
	uint32_t n_rows, n_cols, box_rows;
};

static std::vector<bulk_copy> engine;

/* Ends the phase when nothing is missing. */
static void
end_phase(phase_barrier *b)
{
	if (b->missing > 0 || b->bytes != 0)
		return;
	b->missing = b->expected;
	b->parity ^= 1;
}

/* See bulk_copy.cuh. */
void
barrier_init(uint64_t *b, uint32_t n)
{
	const phase_barrier ready = {n & 0x7fff, n & 0x7fff, 0, 0};

	memcpy(b, &ready, sizeof(ready));
}

/* See bulk_copy.cuh. */
void
barrier_arrive(uint64_t *b)
{
	barrier_expect(b, 0);
}

/* See bulk_copy.cuh. */
void
barrier_expect(uint64_t *at, uint32_t bytes)
{
	phase_barrier *b = (phase_barrier *) at;

	if (b->missing == 0)
	{
		printf("cuda_host: more arrive at a barrier than it was made for\n");
		abort();
	}
	b->bytes += (int32_t) bytes;
	b->missing--;
	end_phase(b);
}

/* Makes one of the copies, any. */
static void
bring_one()
{
	const size_t i = random_state / 7 % engine.size();
	bulk_copy copy = engine[i];

	engine.erase(engine.begin() + (ptrdiff_t) i);
	memcpy(copy.to, copy.what.data(), copy.what.size());
	copy.full->bytes -= (int32_t) copy.what.size();
	end_phase(copy.full);
}

/* See bulk_copy.cuh. */
void
barrier_wait(uint64_t *at, uint32_t parity)
{
	const phase_barrier *b = (const phase_barrier *) at;

	for (int turns = 0; b->parity == parity; turns++)
	{
		if (turns == PATIENCE)
		{
			printf("cuda_host: %u arrivals and %d bytes are missing at a barrier\n", b->missing,
			       b->bytes);
			abort();
		}
		if (!engine.empty() && random_state / 3 % 4 == 0)
			bring_one();
		give_way();
	}
}

/* Puts a copy off, and poisons its place. */
static void
ask(void *to, const std::vector<char> &what, uint64_t *full, size_t align)
{
	if ((size_t) to % align != 0)
	{
		printf("cuda_host: a bulk copy to %p\n", to);
		abort();
	}
	memset(to, 0x7f, what.size());
	engine.push_back(bulk_copy{to, what, (phase_barrier *) full});
}

/* See bulk_copy.cuh. */
void
bulk_bytes(void *to, const void *from, uint32_t bytes, uint64_t *full)
{
	if ((size_t) from % 16 != 0 || bytes % 16 != 0 || bytes == 0)
	{
		printf("cuda_host: a bulk copy of %u bytes from %p\n", bytes, from);
		abort();
	}
	ask(to, std::vector<char>((const char *) from, (const char *) from + bytes), full, 16);
}

/* See bulk_copy.cuh. */
bool
bulk_describe(CUtensorMap *map, const bf16 *data, uint32_t n_rows, uint32_t n_cols,
              uint32_t box_rows)
{
	const matrix_map m = {data, n_rows, n_cols, box_rows};

	static_assert(sizeof(m) <= sizeof(*map), "a map has room for it");
	memcpy(map, &m, sizeof(m));
	return (size_t) data % 16 == 0 && n_cols % 8 == 0 && box_rows <= 256;
}

/* See bulk_copy.cuh. */
void
bulk_box(void *to, const CUtensorMap *map, uint32_t col, uint32_t row, uint64_t *full)
{
	matrix_map m;

	memcpy(&m, map, sizeof(m));
	std::vector<char> box((size_t) m.box_rows * 128);
	for (uint32_t r = 0; r < m.box_rows; r++)
		for (uint32_t c = 0; c < 64; c++)
			if (row + r < m.n_rows && col + c < m.n_cols)
				memcpy(&box[r * 128 + (c / 8 ^ r % 8) * 16 + c % 8 * 2],
				       &m.data[(size_t) (row + r) * m.n_cols + col + c], 2);
	ask(to, box, full, BULK_ALIGN);
}

/* A thread's life. */
static void
live()
{
	the_kernel(the_args);
	threads[running].ended = true;
	n_ended++;
	if (n_ended == n_threads)
		setcontext(&launcher);
	become(pick());
}

/* Runs one block to its end. */
static void
run_block()
{
	volatile bool done = false;

	n_ended = 0;
	engine.clear();
	block_barrier = barrier();
	for (int i = 0; i < n_threads; i++)
	{
		coroutine *t = &threads[i];

		t->stack.resize(STACK_BYTES);
		t->groups.assign(1, std::vector<copy>());
		t->begun = t->ended = false;
		getcontext(&t->context);
		t->context.uc_stack.ss_sp = t->stack.data();
		t->context.uc_stack.ss_size = t->stack.size();
		t->context.uc_link = NULL;
		makecontext(&t->context, live, 0);
	}
	getcontext(&launcher);
	if (done)
		return;
	done = true;
	become(0);
}

/* See cuda_host.cuh. */
void
host_run(dim3 grid, int n, int bytes, void (*kernel)(const void *), const void *args)
{
	if (n > THREADS_MAX || n % 32 != 0 || bytes > (int) sizeof(dynamic_shared))
	{
		printf("cuda_host: a block of %d threads, %d bytes\n", n, bytes);
		abort();
	}
	n_threads = n;
	the_kernel = kernel;
	the_args = args;
	gridDim = grid;
	blockDim = dim3((unsigned) n);
	for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
		for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
			for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++)
				run_block();
}

/* --- the runtime ---------------------------------------------------------------------------- */

/* Device memory is the host's. */
extern "C" cudaError_t
cudaMalloc(void **p, size_t n)
{
	*p = aligned_alloc(256, (n + 511) / 256 * 256);
	return *p != NULL ? cudaSuccess : cudaErrorMemoryAllocation;
}
/* The same. */
extern "C" cudaError_t
cudaFree(void *p)
{
	free(p);
	return cudaSuccess;
}
/* The same. */
extern "C" cudaError_t
cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind)
{
	if (n > 0)
		memcpy(to, from, n);
	return cudaSuccess;
}
/* There is one stream, and it is always idle. */
extern "C" cudaError_t
cudaStreamCreate(cudaStream_t *s)
{
	*s = NULL;
	return cudaSuccess;
}
/* The same. */
extern "C" cudaError_t
cudaStreamSynchronize(cudaStream_t)
{
	return cudaSuccess;
}
/* There is one card. */
extern "C" cudaError_t
cudaGetDeviceCount(int *n)
{
	*n = 1;
	return cudaSuccess;
}
/* The same. */
extern "C" cudaError_t
cudaSetDevice(int)
{
	return cudaSuccess;
}
/* A small one, without wgmma. */
extern "C" cudaError_t
cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
	memset(p, 0, sizeof(*p));
	snprintf(p->name, sizeof(p->name), "the CPU in place of a card");
	p->major = 8;
	p->multiProcessorCount = 2;
	return cudaSuccess;
}
/* The only failure there is. */
extern "C" const char *
cudaGetErrorString(cudaError_t)
{
	return "out of memory";
}
/* There is no driver. */
extern "C" cudaError_t
cudaGetDriverEntryPointByVersion(const char *, void **at, unsigned, unsigned long long,
                                 cudaDriverEntryPointQueryResult *status)
{
	*at = NULL;
	*status = cudaDriverEntryPointSymbolNotFound;
	return cudaSuccess;
}
