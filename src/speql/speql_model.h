/*
 * speql_model.h: what the language model makes of a text that is being typed.
 *
 * The schema that the role may read is a prompt that never changes while one types, so that the
 * engine computes it once; of the text, what was added since the last keystroke. The model writes
 * under rules (speql_grammar.h), and counts only as far as it analyses. What it wrote and what the
 * other sources found is ranked together, by one packed scoring pass.
 */
#ifndef SPEQL_MODEL_H
#define SPEQL_MODEL_H

#include "speql_predict.h"

/*
 * Ranks completions of a text by the model's probability of them, in place, and adds the model's
 * own continuation. False when there is no local model. Waits for the engine; raises its errors.
 */
extern bool speql_model_complete(const char *text, SpeqlCompletions *completions);

#endif /* SPEQL_MODEL_H */
