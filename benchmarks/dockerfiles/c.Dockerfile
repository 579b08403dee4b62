# A program in C: one stage has the compiler, the other what it made.
FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY source ./
RUN make -j2
FROM debian:bookworm-slim
COPY --from=build /src/program /usr/local/bin/program
CMD ["program"]
