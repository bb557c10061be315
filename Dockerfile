# One image for every role. Build: docker build -t comfyume-agent .
# Run:   docker run -p 8800:8800 -v comfyume:/var/lib/comfyume comfyume-agent --dev --gateway-listen 0.0.0.0:8800
FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=docker
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/comfyume-agent ./agent/comfyume-agent

# The stock frontend's wheel, fetched once; the agent checks its digest.
FROM python:3.13-slim-bookworm AS wheel
ARG FRONTEND=1.37.11
RUN pip download --no-deps --only-binary=:all: --dest /wheels comfyui-frontend-package==$FRONTEND

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/comfyume comfyume
COPY --from=build /out/comfyume-agent /usr/local/bin/comfyume-agent
COPY --from=wheel /wheels /usr/local/share/comfyume/wheels
ENV COMFYUME_STATE_DIR=/var/lib/comfyume COMFYUME_WHEEL_DIR=/usr/local/share/comfyume/wheels
USER comfyume
VOLUME /var/lib/comfyume
EXPOSE 8800
ENTRYPOINT ["/usr/local/bin/comfyume-agent"]
