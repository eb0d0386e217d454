/*
 * speql_model.h: what the language model makes of a text that is being typed.
 *
 * The schema that the role may read is a prompt that never changes while one types, so that the
 * engine computes it once; of the text, what was added since the last keystroke. Candidates are
 * ranked by one packed scoring pass, and what the model writes counts only as far as it analyses.
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
