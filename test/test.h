/*
 * test.h: the harness of the engine's unit tests: one program a topic, test_<topic>.c.
 *
 * A program calls RUN(name) for each static void test_name(void) and ends with return
 * test_summary(topic). A failed CHECK prints file, line and text, counts against the running test,
 * and goes on; REQUIRE leaves the test. The last line is "topic: N passed, N failed, N skipped",
 * which make check adds up.
 */
#ifndef TEST_H
#define TEST_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int test_n_passed;
static int test_n_failed;
static int test_n_skipped;
static bool test_this_failed;
static bool test_this_skipped;

#define CHECK(cond) \
	do \
	{ \
		if (!(cond)) \
		{ \
			printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #cond); \
			test_this_failed = true; \
		} \
	} while (0)

#define CHECK_MSG(cond, ...) \
	do \
	{ \
		if (!(cond)) \
		{ \
			printf("%s:%d: failed: %s: ", __FILE__, __LINE__, #cond); \
			printf(__VA_ARGS__); \
			printf("\n"); \
			test_this_failed = true; \
		} \
	} while (0)

#define REQUIRE(cond) \
	do \
	{ \
		if (!(cond)) \
		{ \
			printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #cond); \
			test_this_failed = true; \
			return; \
		} \
	} while (0)

/* A missing prerequisite is printed with its reason and counted as a skip, never as a pass. */
#define SKIP(reason) \
	do \
	{ \
		printf("SKIP: %s\n", reason); \
		test_this_skipped = true; \
		return; \
	} while (0)

#define RUN(name) test_run(#name, test_##name)

static inline void
test_run(const char *name, void (*fn)(void))
{
	test_this_failed = false;
	test_this_skipped = false;
	fn();
	if (test_this_failed)
	{
		printf("not ok %s\n", name);
		test_n_failed++;
	}
	else if (test_this_skipped)
		test_n_skipped++;
	else
		test_n_passed++;
	fflush(stdout);
}

static inline int
test_summary(const char *topic)
{
	printf("%s: %d passed, %d failed, %d skipped\n", topic, test_n_passed, test_n_failed,
	       test_n_skipped);
	return test_n_failed > 0;
}

/* A small reproducible generator for random tests (splitmix64). */
static inline uint64_t
test_random(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

#endif /* TEST_H */
