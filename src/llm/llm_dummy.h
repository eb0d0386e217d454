/*
 * llm_dummy.h: the built-in model "dummy": answers at once from a hash of its input, for users' own
 * tests and for regression files. Deterministic across machines and versions.
 */
#ifndef LLM_DUMMY_H
#define LLM_DUMMY_H

#include "llm.h"

#define LLM_DUMMY_NAME "dummy"
#define LLM_DUMMY_DIM  16

/* Runs a job in the calling thread: all its callbacks come before this returns. */
void llm_dummy_run(const llm_job *job);

#endif /* LLM_DUMMY_H */
