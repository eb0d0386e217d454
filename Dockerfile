# A PostgreSQL 15 server with prepack, on Debian 12.
#
#	docker build -t prepack .
#	docker run -v "$PWD/models:/models:ro" -v prepack-data:/var/lib/postgresql/data -p 5432:5432 \
#	    -e POSTGRES_PASSWORD=… --shm-size=256m prepack
#
# The first stage builds as any machine does (README, "Into a server you have"); the second holds the server
# and what was installed, no compiler. Models are mounted, not copied: the image is of no use to them.

FROM debian:bookworm AS build
WORKDIR /src
COPY scripts/install-deps scripts/
RUN scripts/install-deps build
COPY . .
RUN make -j"$(nproc)" all && make install DESTDIR=/out PREFIX=/usr && build/prepack-engine selftest

FROM debian:bookworm-slim
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        postgresql-15 ca-certificates libcurl4 libutf8proc2 \
    && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/15/main \
    && install -d -o postgres -g postgres -m 700 /var/lib/postgresql/data \
    && install -d -o postgres -g postgres /models
COPY --from=build /out/ /
COPY scripts/docker-entrypoint /usr/local/bin/
ENV PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data
VOLUME ["/var/lib/postgresql/data", "/models"]
USER postgres
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint"]
