# extension.mk: the PostgreSQL side (src/*.c), built by PGXS. Called from the Makefile, since PGXS has
# targets of its own for all, install, check and clean. The engine's program is built there and
# installed beside the library, where the supervisor looks for it.

MODULE_big = prepack
EXTENSION  = prepack
DATA       = prepack--1.0.sql
OBJS       = src/prepack.o src/guc.o src/shmem.o src/supervisor.o src/engine_proc.o src/errors.o \
             src/client.o src/client_wire.o src/client_probe.o src/endpoints.o src/models.o \
             src/call.o src/call_types.o \
             src/batch_plan.o src/batch_hoist.o src/batch_exec.o src/batch_memo.o \
             src/batch_nodes.o src/batch_join.o src/batch_settle.o src/batch_rounds.o \
             src/batch_lift.o src/stats.o \
             src/funcs_admin.o src/funcs_rows.o src/funcs_views.o \
             src/speql/speql_lex.o src/speql/speql_block.o src/speql/speql_check.o \
             src/speql/speql_edit.o src/speql/speql_catalog.o src/speql/speql_repair.o \
             src/speql/speql_funcs.o src/speql/speql_shared.o src/speql/speql_track.o \
             src/speql/speql_env.o src/speql/speql_form.o src/speql/speql_match.o \
             src/speql/speql_rewrite.o src/speql/speql_rollup.o src/speql/speql_define.o \
             src/speql/speql_registry.o src/speql/speql_build.o src/speql/speql_index.o src/speql/speql_scan.o \
             src/speql/speql_plan.o src/speql/speql_tables.o \
             src/speql/speql_feed.o src/speql/speql_worker.o src/speql/speql_preview.o \
             src/speql/speql_history.o src/speql/speql_predict.o src/speql/speql_results.o \
             src/speql/speql_ddl.o src/speql/speql_keys.o src/speql/speql_model.o \
             src/speql/speql_scope.o src/speql/speql_grammar.o \
             src/speql/speql_rules.o \
             src/speql/speql_ahead.o src/speql/speql_plantree.o src/speql/speql_callee.o \
             src/speql/speql_spell.o src/speql/speql_equal.o \
             src/speql/speql_calls.o
REGRESS    = setup functions errors limits models batch_plan batch_semi permissions \
             speql_repair speculation speculation_traps
ISOLATION  = cancel load_unload drop_extension
REGRESS_OPTS = --temp-instance=tmp_check --temp-config=test/prepack.conf --load-extension=prepack \
             --encoding=UTF8 --no-locale
ISOLATION_OPTS = $(REGRESS_OPTS)

PG_CONFIG ?= pg_config
PG_CPPFLAGS = -D_GNU_SOURCE -Isrc
# PostgreSQL's headers and callback signatures bring unused parameters and mixed signs.
PG_CFLAGS   = -std=gnu11 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
              -Wno-missing-field-initializers -Wno-declaration-after-statement $(EXT_WERROR)
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# PGXS knows no headers: an object that is older than any of them could disagree with the others.
$(OBJS): $(wildcard src/*.h src/speql/*.h) src/llm/llm_wire.h src/llm/llm_status.h
