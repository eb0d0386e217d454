/*
 * llm_hash.h: a keyed hash of names that come from files, and a mixer of numbers.
 *
 * Names in model files are chosen by whoever wrote the file. With a fixed hash a file of colliding
 * names would make every index quadratic; SipHash under a key that differs per process does not
 * let them be found. The values must not be stored or sent: another process has another key.
 * Thread-safe.
 */
#ifndef LLM_HASH_H
#define LLM_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t llm_hash(const void *bytes, size_t n);

/*
 * Mixes 64 bits one to one, so that every bit reaches every other: splitmix64's finaliser (Steele,
 * Lea and Flood, OOPSLA 2014, with Stafford's mix 13 for constants). For numbers, not for
 * names of strangers: it has no key.
 */
static inline uint64_t
llm_mix64(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/*
 * An index of n items by name: a table of item numbers with linear probing. Every item starts with
 * a const char * to its NUL-terminated name; the items and their names must outlive the index.
 */
typedef struct llm_names
{
	const void *items;
	size_t stride;   /* bytes of an item */
	uint32_t *slots; /* item number + 1; 0 = free */
	uint32_t n_slots;
} llm_names;

#define LLM_NAMES_ABSENT UINT32_MAX

/* Puts item i in, unless its name is there already: then that item's number, else i, is returned.
 * There must be a free slot: n_slots is a power of two above the number of items. */
uint32_t llm_names_add(llm_names *names, uint32_t i);
/* The number of the item so named, or LLM_NAMES_ABSENT. */
uint32_t llm_names_find(const llm_names *names, const char *name);

#endif /* LLM_HASH_H */
