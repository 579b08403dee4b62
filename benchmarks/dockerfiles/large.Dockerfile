# 2 GB in 80,000 files, which no two are alike, in two layers.
FROM debian:bookworm-slim
COPY large.pl /
RUN perl /large.pl /data/a 40000
RUN perl /large.pl /data/b 40000
COPY app /app
CMD ["true"]
