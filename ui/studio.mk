# studio.mk: prepack-studio, the page that shows answers while one types. Included by the Makefile.
#
# It needs libwebsockets and libpq (libwebsockets-dev, libpq-dev) and, to build the page, Node.js; so
# it is no part of `all`. The tests drive a Chromium that is installed already.

STUDIO_C        = access ask files link main message result run session tab text
STUDIO_OBJS     = $(STUDIO_C:%=$(OBJ)/ui/server/%.o)
STUDIO_PARSER   = $(OBJ)/ui/server/message.o $(OBJ)/ui/server/text.o
STUDIO_CPPFLAGS = -Iui/server -I$(shell $(PG_CONFIG) --includedir) \
                  -DSTUDIO_UI_FOLDER='"$(STUDIO_FOLDER)"'
STUDIO_FOLDER   = $(PREFIX)/share/prepack-studio
STUDIO_PAGE     = ui/dist/index.html
STUDIO_SOURCES  = $(wildcard ui/src/*.ts ui/src/*.css) ui/index.html ui/vite.config.ts ui/package-lock.json

.PHONY: studio prepack-studio install-studio check-ui

prepack-studio: $(BUILD)/prepack-studio $(STUDIO_PAGE)

studio:                          ## the query-preview page, on the quickstart's database
	scripts/install-deps studio
	$(MAKE) --no-print-directory prepack-studio
	ui/open-studio $(BUILD)/prepack-studio

check-ui: prepack-studio           ## the page in a browser, against a temporary server
	$(RUN) --name ui ui/check-ui

install-studio: prepack-studio   ## prepack-studio into PREFIX/bin, its page into PREFIX/share
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(STUDIO_FOLDER)/assets
	install -m 755 $(BUILD)/prepack-studio $(DESTDIR)$(PREFIX)/bin/
	install -m 644 ui/dist/index.html $(DESTDIR)$(STUDIO_FOLDER)/
	install -m 644 ui/dist/assets/* $(DESTDIR)$(STUDIO_FOLDER)/assets/

$(STUDIO_OBJS) $(OBJ)/test/fuzz_studio.o: LLM_CPPFLAGS += $(STUDIO_CPPFLAGS)

$(BUILD)/prepack-studio: $(STUDIO_OBJS) $(BUILD)/libllm.a
	$(CC) $(LLM_LDFLAGS) -o $@ $^ -lwebsockets -lpq -lutf8proc

$(BUILD)/fuzz_studio: $(STUDIO_PARSER)

ui/node_modules/.package-lock.json: ui/package-lock.json
	cd ui && npm ci --ignore-scripts

$(STUDIO_PAGE): $(STUDIO_SOURCES) ui/node_modules/.package-lock.json
	cd ui && npm run build

-include $(STUDIO_OBJS:.o=.d)
