/*
 * llm_sha256.h: SHA-256 (FIPS 180-4), for the digests of model files.
 */
#ifndef LLM_SHA256_H
#define LLM_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct llm_sha256
{
	void (*blocks)(uint32_t state[8], const uint8_t *p, size_t n_blocks);
	uint32_t state[8];
	uint64_t n_bytes;
	uint8_t block[64]; /* the n_bytes % 64 bytes that are not hashed yet */
} llm_sha256;

void llm_sha256_init(llm_sha256 *h);
/* The same without the processor's SHA instructions, so that tests reach the plain code too. */
void llm_sha256_init_plain(llm_sha256 *h);
void llm_sha256_update(llm_sha256 *h, const void *data, size_t bytes);
/* Ends the hash and writes it as 64 lower-case hex digits and NUL. */
void llm_sha256_final_hex(llm_sha256 *h, char hex[65]);

#endif /* LLM_SHA256_H */
