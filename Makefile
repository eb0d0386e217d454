# prepack: builds and checks the engine (src/llm, kernels). "make help" prints every target.
#
# Lists, no logic: every source file stands in one list below, by subsystem (scripts/check-style
# complains about a file that stands in none). Everything built lies under $(BUILD), so several
# builds live side by side. The variables are named LLM_… and the objects live under $(BUILD)/obj,
# away from what PGXS calls its own (CFLAGS, OBJS, PROGRAM, SHLIB_LINK); docs/building.md tells why
# the extension gets a makefile of its own.

BUILD = build
SANITIZE =
WERROR = 0
PYTHON = python3
PREFIX = /usr/local
PG_CONFIG ?= pg_config
DESTDIR =
FUZZ_SECONDS = 60
FUZZ_SMOKE_SECONDS = 5

# --- the library, by subsystem ----------------------------------------------------------

LLM_BASE      = llm_status llm_alloc llm_buffer
LLM_LOAD      = llm_file llm_gguf llm_hash llm_json llm_quant llm_safetensors llm_sha256 llm_weights
LLM_TOKENIZE  = llm_unicode llm_tokenizer llm_tok_vocab llm_tok_trie llm_tok_added \
                llm_tok_normalise llm_tok_charsmap llm_tok_scan llm_tok_split llm_tok_bpe \
                llm_tok_unigram llm_tok_wordpiece llm_tok_load_gguf llm_tok_load_hf \
                llm_tok_load_steps llm_chat
LLM_MODEL     = llm_arch llm_arch_gguf llm_arch_hf llm_arch_keys llm_arch_pool llm_arch_rope \
                llm_model llm_model_chat llm_model_names llm_forward llm_forward_encode llm_ranks llm_ranks_ops
LLM_CPU       = llm_thread llm_cpu llm_cpu_simd llm_cpu_rope llm_cpu_rows llm_cpu_top llm_cpu_weights \
                llm_cpu_matmul llm_cpu_mlp llm_cpu_i8 llm_cpu_kv llm_cpu_qkv llm_cpu_attn llm_cpu_attn_amx
LLM_SCHEDULE  = llm_kv llm_kv_page llm_kv_verify llm_label llm_pack llm_prefix llm_sched \
                llm_sched_pass llm_sched_queue llm_sched_verify
LLM_DECODE    = llm_draft llm_grammar llm_grammar_mask llm_grammar_rules llm_grammar_schema llm_grammar_step \
                llm_sample llm_stop llm_vocab_trie
LLM_ENGINE    = llm_cosine llm_device llm_prompt llm_engine llm_engine_model llm_engine_job llm_engine_rows \
                llm_engine_pass llm_engine_score llm_engine_generate llm_dummy \
                llm_wire_job llm_server llm_server_conn llm_server_job llm_server_model llm_server_admin
LLM_REMOTE    = llm_remote llm_remote_call llm_remote_endpoint llm_remote_write llm_remote_read llm_remote_stream \
                llm_remote_labels llm_remote_schema
# The CUDA backend, a shared object of its own: make cuda.
KERNELS_CUDA  = backend link plan weights quant fp8 matmul matmul_skinny matmul_stream matmul_quant \
                matmul_quant_stream rows norm activate qkv kv pool top attention attention_simple \
                attention_prefill attention_hopper attention_decode
KERNELS_REF   = matmul_ref quant_ref fp8_ref norm_ref activate_ref rope_ref attention_ref pool_ref top_ref

# What only the process has: the server loop, the command line. May print and exit.
LLM_PROGRAM   = llm_main llm_cli llm_cli_bench llm_cli_pack llm_cli_generate llm_cli_inspect llm_cli_model \
                llm_cli_selftest llm_cli_serve

# --- test programs, fuzz targets, tests of the scripts ----------------------------------

TESTS         = test_alloc test_arch test_chat test_conn test_copies test_cpu_attn test_cpu_ops \
                test_device test_draft test_dummy test_engine test_engine_order test_forward \
                test_gguf test_grammar test_grammar_limits test_grammar_rules test_hash test_json \
                test_kernels test_kv test_label test_models test_pack test_packed test_prompt test_quant \
                test_ranks test_remote \
                test_remote_jobs test_remote_stream test_safetensors test_sample test_sched \
                test_sched_load test_server test_server_model test_server_remote test_sim test_stop \
                test_thread test_tok_load test_tokenizer test_unicode test_weights test_wire \
                test_wire_storm
FUZZ          = fuzz_gguf fuzz_grammar fuzz_json fuzz_remote fuzz_safetensors fuzz_studio fuzz_tokenizer \
                fuzz_wire
BENCHES       = bench_gpu bench_grammar bench_ops
# Programs that launch kernels themselves: nvcc builds them.
TESTS_CUDA    = test_plan test_attention test_fault
# The same kernels compiled for the CPU; needs CUDA's headers alone.
TESTS_HOST    = $(if $(wildcard $(CUDA_INCLUDE)/cuda_runtime.h),test_attention_host test_quant_host \
                test_top_host)
BENCHES_CUDA  = bench_attention
SCRIPT_TESTS  = test_run_tests test_check_style test_check_layers test_fetch_model \
                test_wrap_comments test_bench_llm test_check_docs test_packaging test_cli \
                test_schema

# --- flags ------------------------------------------------------------------------------

LLM_WARNINGS = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
               $(LLM_WERROR_$(WERROR))
LLM_WERROR_1 = -Werror
LLM_CPPFLAGS = -D_GNU_SOURCE -Isrc/llm -Ikernels -Itest
# No -march=native: the CPU backend picks its instruction set at run time, so that a package runs
# everywhere.
LLM_CFLAGS   = -std=c11 -O2 -g -fPIC -pthread $(LLM_WARNINGS) $(SANITIZE:%=$(LLM_SANITIZE))
LLM_SANITIZE = -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer
LLM_LDFLAGS  = -pthread $(SANITIZE:%=$(LLM_SANITIZE)) $(LDFLAGS)
LLM_LIBS     = -lcurl -lutf8proc -lm
CLANG        = clang
# PGXS hands on the flags and the attributes of the compiler that built the server.
CLANG_WERROR = -Werror -Wno-unknown-warning-option -Wno-ignored-optimization-argument \
               -Wno-ignored-attributes

DEVICE        = cuda:0
DEVICE_TESTS  = test_kernels test_forward test_packed test_models
# CUDA. cuBLASLt's headers and library may come from its Python package (nvidia-cublas) instead.
NVCC          = nvcc
CUDA_INCLUDE  = /usr/local/cuda/include
CUDA_ARCHS    = 80 89 90a 100
CUDA_PTX      = 100
CUBLAS        =
CUDA_RPATHS   = $$ORIGIN /usr/local/cuda/lib64 $(CUBLAS:%=%/lib)
CUDA_CFLAGS   = -std=c++17 -O3 -lineinfo -Ikernels $(CUBLAS:%=-I%/include) \
                -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra \
                $(foreach a,$(CUDA_ARCHS),-gencode=arch=compute_$(a),code=sm_$(a)) \
                $(foreach a,$(CUDA_PTX),-gencode=arch=compute_$(a),code=compute_$(a))
CUDA_LDFLAGS  = -shared -cudart static $(CUBLAS:%=-L%/lib) -l:libcublasLt.so.13 \
                $(CUDA_RPATHS:%=-Xlinker -rpath='%')

OBJ           = $(BUILD)/obj
LLM_NAMES     = $(LLM_BASE) $(LLM_LOAD) $(LLM_TOKENIZE) $(LLM_MODEL) $(LLM_CPU) $(LLM_SCHEDULE) \
                $(LLM_DECODE) $(LLM_ENGINE) $(LLM_REMOTE)
LLM_OBJS      = $(LLM_NAMES:%=$(OBJ)/src/llm/%.o) $(KERNELS_REF:%=$(OBJ)/kernels/ref/%.o)
PROGRAM_OBJS  = $(LLM_PROGRAM:%=$(OBJ)/src/llm/%.o)
TEST_PROGRAMS = $(TESTS:%=$(BUILD)/%)
FUZZ_PROGRAMS = $(FUZZ:%=$(BUILD)/%)
# No bitcode: PGXS would ask for the clang that the server was built with.
EXT_MAKE      = $(MAKE) --no-print-directory -f extension.mk with_llvm=no PG_CONFIG=$(PG_CONFIG)
RESULTS       = $(BUILD)/results
DIST          = prepack-$(shell sed -n '/"version"/{s/.*: *"\(.*\)".*/\1/p;q}' META.json)
RUN           = scripts/run-tests --results $(RESULTS)
SUBMAKE       = $(MAKE) --no-print-directory -j$$(nproc)
ASAN_MAKE     = $(SUBMAKE) BUILD=$(BUILD)/asan SANITIZE=address,undefined
# libFuzzer brings its own main and wants every object instrumented, so it gets its own build.
FUZZ_MAKE     = $(SUBMAKE) BUILD=$(BUILD)/fuzz CC=$(CLANG) FUZZ_MAIN= \
                SANITIZE=address,undefined,fuzzer-no-link FUZZ_LDFLAGS=-fsanitize=fuzzer
FUZZ_LIMITS   = -timeout=10 -rss_limit_mb=2048 -artifact_prefix=$(BUILD)/fuzz/

# --- what people call -------------------------------------------------------------------

.PHONY: all engine cuda check-kernels bench-gpu gpu-bundle check check-llm check-style \
        check-layers check-unit check-asan check-corpora check-fuzz check-scripts models \
        bench-llm bench-race bench-speql bench-sql install install-engine install-extension uninstall \
        clean clean-extension dist format help tests fuzzers fuzz-gguf fuzz-safetensors \
        fuzz-json fuzz-tokenizer fuzz-wire fuzz-grammar fuzz-remote fuzz-studio extension \
        check-clang check-pgspot check-sql check-docs check-core check-assert check-versions installcheck quickstart \
        start stop env psql

all: engine extension           ## build the engine and the extension

extension:                      ## build the extension (PGXS, see extension.mk)
	+$(EXT_MAKE) all

engine: $(BUILD)/libllm.a $(PROGRAM_OBJS:%=$(BUILD)/prepack-engine)

cuda: $(BUILD)/prepack_cuda.so  ## build the CUDA backend (nvcc; CUBLAS= a folder with cuBLASLt)

check: check-llm check-scripts check-clang check-pgspot check-sql check-docs ## all there is, in order; the gate of CI
	$(RUN) --total

check-llm: check-style check-layers check-unit check-asan check-corpora check-fuzz ## the engine

check-style:                    ## lengths, banned calls, banners, comments, format, commits
	$(RUN) --name style scripts/check-style

check-layers: $(BUILD)/libllm.a ## the engine knows no PostgreSQL; every header compiles alone
	$(RUN) --name layers "scripts/check-layers --archive $(BUILD)/libllm.a"

check-unit:                     ## the unit tests, as users run the code
	$(SUBMAKE) WERROR=1 tests $(TESTS_HOST:%=$(BUILD)/%)
	@$(if $(TESTS_HOST),,echo 'SKIP: kernels compiled for the CPU: no cuda_runtime.h in $(CUDA_INCLUDE)')
	$(RUN) --name unit $(TEST_PROGRAMS) $(TESTS_HOST:%=$(BUILD)/%)

check-asan:                     ## the unit tests under ASan and UBSan
	$(ASAN_MAKE) WERROR=1 tests
	$(RUN) --name asan $(TESTS:%=$(BUILD)/asan/%)

check-corpora:                  ## every fuzz target over its committed corpus, under ASan and UBSan
	$(ASAN_MAKE) WERROR=1 fuzzers
	$(RUN) --name corpora $(foreach f,$(FUZZ:fuzz_%=%),"$(BUILD)/asan/fuzz_$(f) test/corpus/$(f)")

check-fuzz:                     ## every fuzz target for some seconds; all compiled by clang
	$(FUZZ_MAKE) WERROR=1 tests fuzzers
	mkdir -p $(FUZZ:fuzz_%=$(BUILD)/fuzz/corpus/%)
	$(RUN) --name fuzz $(foreach f,$(FUZZ:fuzz_%=%),"sh -c '$(BUILD)/fuzz/fuzz_$(f) \
	    $(FUZZ_LIMITS) -max_total_time=$(FUZZ_SMOKE_SECONDS) $(BUILD)/fuzz/corpus/$(f) \
	    test/corpus/$(f) && echo $(f): 1 passed, 0 failed'")

check-scripts: engine           ## the tests of the scripts and of the command line
	$(RUN) --name scripts $(SCRIPT_TESTS:%="$(PYTHON) test/%.py")

check-clang:                    ## the extension compiled by clang, in a copy of its sources
	mkdir -p $(BUILD)/clang
	git ls-files src extension.mk 'prepack*' | xargs cp --parents -u -t $(BUILD)/clang
	$(RUN) --name clang "sh -c '$(EXT_MAKE) -C $(BUILD)/clang CC=\"$(CLANG)\" all \
	    EXT_WERROR=\"$(CLANG_WERROR)\" && echo clang: 1 passed, 0 failed'"

check-pgspot:                   ## nothing in the extension's script can be captured by a hostile schema
	$(RUN) --name pgspot scripts/check-pgspot

check-sql:                      ## the extension under a temporary server; installs it first
	+$(EXT_MAKE) EXT_WERROR=-Werror all
	$(MAKE) --no-print-directory install
	$(RUN) --name sql scripts/installcheck
	$(RUN) --name tap scripts/tapcheck

check-docs:                     ## every SQL example of the manual, against what is installed
	$(RUN) --name docs scripts/check-docs

check-core:                     ## PostgreSQL's own tests with the library preloaded: nothing differs
	$(RUN) --name core scripts/check-core-regress

ASSERT_PARTS  = sql tap caches valgrind
check-assert:                   ## SQL and TAP tests under a server built with assertions; caches, valgrind
	scripts/check-assert build
	$(RUN) --name assert $(foreach p,$(ASSERT_PARTS),"scripts/check-assert $(p)")

check-versions:                 ## the same against PostgreSQL 17 and 18, in Debian trees of their own
	$(RUN) --name versions "scripts/check-pg 17" "scripts/check-pg 18"

installcheck:                   ## the SQL tests alone, against what is installed
	scripts/installcheck

quickstart:                     ## everything from nothing to a first result; see the README
	scripts/quickstart
start stop env psql:            ## the quickstart's private server: start, stop, PGHOST…, a prompt
	@scripts/cluster $@

fuzz-gguf fuzz-safetensors fuzz-json: ## fuzz one parser for FUZZ_SECONDS
fuzz-tokenizer fuzz-wire fuzz-grammar fuzz-remote fuzz-studio: ## the same
$(FUZZ:fuzz_%=fuzz-%): fuzz-%:
	$(FUZZ_MAKE) $(BUILD)/fuzz/fuzz_$*
	mkdir -p $(BUILD)/fuzz/corpus/$* test/corpus/$*
	$(BUILD)/fuzz/fuzz_$* $(FUZZ_LIMITS) -max_total_time=$(FUZZ_SECONDS) \
	    $(BUILD)/fuzz/corpus/$* test/corpus/$*

models:                         ## fetch the weights that tests and benchmarks use
	scripts/fetch-model smollm2-135m minilm-l6

check-kernels: cuda tests $(TESTS_CUDA:%=$(BUILD)/%) ## on a machine with a card: ops, models, bits, sanitized
	PREPACK_TEST_DEVICE=$(DEVICE) $(RUN) --name kernels $(DEVICE_TESTS:%=$(BUILD)/%) \
	    $(TESTS_CUDA:%=$(BUILD)/%)
	PREPACK_TEST_DEVICE=$(DEVICE) $(RUN) --name sanitizer $(foreach t,memcheck racecheck \
	    initcheck synccheck,"sh -c 'compute-sanitizer --error-exitcode 1 --tool $(t) \
	    $(BUILD)/test_kernels && compute-sanitizer --error-exitcode 1 --tool $(t) \
	    $(BUILD)/test_attention --brief && echo $(t): 1 passed, 0 failed'")

bench-gpu: cuda $(BUILD)/bench_gpu $(BENCHES_CUDA:%=$(BUILD)/%) ## on a machine with a card, beside its peers
	bench/bench-gpu --device $(DEVICE) --build $(BUILD) --out $(BUILD)/bench

gpu-bundle:                     ## pack server, extension, tests for a host with a card: scripts/gpu-bundle
	scripts/gpu-bundle

bench-llm: all models           ## the engine and its peers side by side, into $(BUILD)/bench
	bench/bench-llm --engine $(BUILD)/prepack-engine --out $(BUILD)/bench

bench-speql: all                ## typed queries, paired with speculation off; installs the extension first
	$(MAKE) --no-print-directory install
	bench/bench-speql --out $(BUILD)/bench

bench-race:                     ## the freshness of speculative tables at a million checks, at the server of PG*
	bench/speql/race --checks 200000
	bench/speql/race --checks 10000 --scenario late --caught

bench-sql: all models           ## the promises of the extension, into $(BUILD)/bench; installs it first
	$(MAKE) --no-print-directory install
	bench/bench-sql --engine $(BUILD)/prepack-engine --out $(BUILD)/bench

install: install-engine install-extension ## the extension into PostgreSQL, the command into PREFIX

install-extension: extension $(BUILD)/prepack-engine ## the library, its script and the engine
	+$(EXT_MAKE) install
	install -d $(DESTDIR)$$($(PG_CONFIG) --pkglibdir)
	for f in prepack-engine $(notdir $(wildcard $(BUILD)/prepack_cuda.so)); do \
	    install -m 755 $(BUILD)/$$f $(DESTDIR)$$($(PG_CONFIG) --pkglibdir)/ || exit 1; done

install-engine: $(BUILD)/prepack-engine ## the engine as a command, into PREFIX/bin
	install -d $(DESTDIR)$(PREFIX)/bin
	for f in prepack-engine $(notdir $(wildcard $(BUILD)/prepack_cuda.so)); do \
	    install -m 755 $(BUILD)/$$f $(DESTDIR)$(PREFIX)/bin/ || exit 1; done

uninstall:                      ## remove what install put there
	+$(EXT_MAKE) uninstall
	cd $(DESTDIR)$$($(PG_CONFIG) --pkglibdir) && rm -f prepack-engine prepack_cuda.so
	rm -f $(DESTDIR)$(PREFIX)/bin/prepack-engine $(DESTDIR)$(PREFIX)/bin/prepack_cuda.so

dist:                           ## the source archive of the last commit, as PGXN takes it
	mkdir -p $(BUILD)
	git archive --format zip --prefix $(DIST)/ -o $(BUILD)/$(DIST).zip HEAD

format:                         ## wrap wide comments, lay out all C files by .clang-format
	git ls-files '*.c' '*.h' '*.cu' '*.cuh' | xargs scripts/wrap-comments
	git ls-files '*.c' '*.h' '*.cu' '*.cuh' | xargs clang-format -i

clean:                          ## remove everything built but the extension's objects
	rm -rf $(BUILD)

clean-extension:                ## remove the extension's objects, which lie beside the sources
	+$(EXT_MAKE) clean

help:                           ## this list
	@sed -n 's/^\([a-z][a-z -]*\):.*## \(.*\)/\1|\2/p' Makefile ui/studio.mk | \
	    while IFS='|' read -r name text; do printf '%-14s %s\n' "$$name" "$$text"; done

# --- rules ------------------------------------------------------------------------------

.SECONDARY:
.DELETE_ON_ERROR:

tests: $(TEST_PROGRAMS) $(BENCHES:%=$(BUILD)/%)
fuzzers: $(FUZZ_PROGRAMS)

$(OBJ)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(LLM_CPPFLAGS) $(CPPFLAGS) $(LLM_CFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# Dequantisation must equal the reference bit for bit, so no multiply and add may fuse.
$(OBJ)/src/llm/llm_quant.o: LLM_CFLAGS += -ffp-contract=off

# Vectors are wider than the base machine's registers, but none crosses a function that is not inlined.
$(OBJ)/src/llm/llm_cpu_simd.o: LLM_CFLAGS += -Wno-psabi

$(BUILD)/libllm.a: $(LLM_OBJS)
	rm -f $@
	$(AR) rcs $@ $^

$(OBJ)/kernels/%.cu.o: kernels/%.cu
	@mkdir -p $(@D)
	$(NVCC) $(CUDA_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/prepack_cuda.so: $(KERNELS_CUDA:%=$(OBJ)/kernels/%.cu.o)
	$(NVCC) $(CUDA_LDFLAGS) -o $@ $^

# They bring the kernels along instead of loading the backend.
ATTENTION_OBJS = $(filter %_prefill.cu.o %_hopper.cu.o %_decode.cu.o,$(KERNELS_CUDA:%=$(OBJ)/kernels/%.cu.o))
CUDA_MAIN      = $(NVCC) $(CUDA_CFLAGS) -Itest -cudart static

$(BUILD)/test_plan: test/test_plan.cu kernels/plan.cu kernels/cuda.cuh $(ATTENTION_OBJS)
	$(CUDA_MAIN) -o $@ $< $(ATTENTION_OBJS)

$(BUILD)/test_fault: $(OBJ)/test/test_fault.o test/fault_kernels.cu $(BUILD)/libllm.a \
                     | $(BUILD)/fake/libcuda.so.1
	$(CUDA_MAIN) -o $@ $(filter-out %.so.1,$^) $(LLM_LIBS)

$(BUILD)/test_attention: test/test_attention.cu test/attention_fixture.cuh $(ATTENTION_OBJS) \
                         $(KERNELS_REF:%=$(OBJ)/kernels/ref/%.o)
	$(CUDA_MAIN) -o $@ $(filter-out %.cuh,$^)

# Lambdas and templates make the kernels C++; parameters that only a card's code uses are unused.
HOST_ATTENTION = kernels/attention_prefill kernels/attention_decode kernels/attention_hopper \
                 test/cuda_host test/test_attention
HOST_QUANT = kernels/quant kernels/matmul_quant kernels/matmul_quant_stream kernels/matmul_stream \
             kernels/fp8 test/cuda_host test/test_quant_host
HOST_TOP = kernels/top test/cuda_host test/test_top_host
HOST_UNITS = $(sort $(HOST_ATTENTION) $(HOST_QUANT) $(HOST_TOP))
HOST_FLAGS = -std=c++17 -O2 -g -Wall -Wextra -Wno-unknown-pragmas -Wno-unused-parameter -Wno-psabi \
             $(LLM_WERROR_$(WERROR)) -Ikernels -Itest -isystem $(CUDA_INCLUDE) \
             -include test/cuda_host.cuh

$(HOST_UNITS:%=$(OBJ)/host/%.o): $(OBJ)/host/%.o: %.cu
	@mkdir -p $(@D)
	$(CXX) $(HOST_FLAGS) -MMD -MP -x c++ -c -o $@ $<

$(BUILD)/test_attention_host: $(HOST_ATTENTION:%=$(OBJ)/host/%.o) $(KERNELS_REF:%=$(OBJ)/kernels/ref/%.o)
	$(CXX) -pthread -o $@ $^ -lm

$(BUILD)/test_top_host: $(HOST_TOP:%=$(OBJ)/host/%.o) $(KERNELS_REF:%=$(OBJ)/kernels/ref/%.o)
	$(CXX) -pthread -o $@ $^ -lm

$(BUILD)/test_quant_host: $(HOST_QUANT:%=$(OBJ)/host/%.o) $(KERNELS_REF:%=$(OBJ)/kernels/ref/%.o)
	$(CXX) -pthread -o $@ $^ -lm

$(BUILD)/bench_attention: bench/bench_attention.cu test/attention_fixture.cuh $(ATTENTION_OBJS)
	$(CUDA_MAIN) -o $@ $(filter-out %.cuh,$^)

$(BUILD)/prepack-engine: $(PROGRAM_OBJS) $(BUILD)/libllm.a
	$(CC) $(LLM_LDFLAGS) -o $@ $^ $(LLM_LIBS)

$(BUILD)/test_%: $(OBJ)/test/test_%.o $(BUILD)/libllm.a
	$(CC) $(LLM_LDFLAGS) -o $@ $^ $(LLM_LIBS)

# The stand-ins for a driver and a device backend that test_device runs beside.
$(BUILD)/test_device: | $(BUILD)/fake/prepack_cuda.so $(BUILD)/fake/libcuda.so.1

$(BUILD)/fake/prepack_cuda.so: $(OBJ)/test/fake_device.o $(BUILD)/libllm.a
	@mkdir -p $(@D)
	$(CC) $(LLM_LDFLAGS) -shared -o $@ $^ $(LLM_LIBS)

$(BUILD)/fake/libcuda.so.1: test/fake_device.c
	@mkdir -p $(@D)
	$(CC) $(LLM_CPPFLAGS) $(LLM_CFLAGS) -DFAKE_DRIVER -shared -o $@ $<

$(BUILD)/bench_%: $(OBJ)/bench/bench_%.o $(BUILD)/libllm.a
	$(CC) $(LLM_LDFLAGS) -o $@ $^ $(LLM_LIBS)

# The driver that replays files; empty under libFuzzer.
FUZZ_MAIN = $(OBJ)/test/fuzz_main.o

$(BUILD)/fuzz_%: $(OBJ)/test/fuzz_%.o $(FUZZ_MAIN) $(BUILD)/libllm.a
	$(CC) $(LLM_LDFLAGS) $(FUZZ_LDFLAGS) -o $@ $^ $(LLM_LIBS)

-include $(KERNELS_CUDA:%=$(OBJ)/kernels/%.cu.d) $(HOST_UNITS:%=$(OBJ)/host/%.d) \
         $(LLM_OBJS:.o=.d) $(PROGRAM_OBJS:.o=.d) $(TESTS:%=$(OBJ)/test/%.d) $(OBJ)/test/fake_device.d \
         $(FUZZ:%=$(OBJ)/test/%.d) $(BENCHES:%=$(OBJ)/bench/%.d)

include ui/studio.mk
