# One image for every role of ours: edge, router, persist, archiver, nginx render, tools.
FROM python:3.11-slim
WORKDIR /srv/chat
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY chat chat
COPY kafka/topics.toml kafka/topics.toml
COPY nginx nginx
RUN pip install --no-cache-dir --constraint constraints.txt --editable . && useradd --system --uid 10001 chat \
    && mkdir /front /archive && chown chat /front /archive
USER chat
STOPSIGNAL SIGTERM
ENTRYPOINT ["chat"]
