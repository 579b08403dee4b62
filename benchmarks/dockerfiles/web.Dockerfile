# A Python web application: packages of Debian and of PyPI, then the application.
FROM debian:bookworm-slim
ARG PIP_INDEX_URL
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip && rm -rf /var/lib/apt/lists/*
WORKDIR /srv
COPY requirements.txt ./
RUN pip install --no-cache-dir --break-system-packages -r requirements.txt
COPY app ./app
ENV PORT=8000
EXPOSE 8000
CMD ["gunicorn", "app.main:app"]
