#!/bin/sh
# What `make test`, `make lint`, `make dist` and the gate run, one line per
# stage: "ok NAME SECONDS" or "FAIL NAME" with the output of what failed.
set -u
cd "$(dirname "$0")/.." || exit 1
CACHE=$PWD/.cache
mkdir -p "$CACHE"
failed=0
passed=0

stage() { # NAME COMMAND...
	name=$1
	shift
	begin=$(date +%s)
	if "$@" >"$CACHE/stage.log" 2>&1; then
		passed=$((passed + 1))
		echo "ok   $name $(($(date +%s) - begin))s$(grep -hE '^(kill9|idle|dispatch|browser|dist|conformance|chaos|bite|isolation) ' "$CACHE/stage.log" | sed 's/^/ | /' | tr '\n' ' ')"
		# What did not run is not counted as having passed: it is named.
		grep -h -B1 -e '^ *--- SKIP' "$CACHE/stage.log" | sed -n 's/^ *[a-z_]*_test\.go:[0-9]*: /     not run: /p'
		sed -n 's/^  note: \(.*left out: .*\)/     not run: \1/p' "$CACHE/stage.log"
	else
		failed=$((failed + 1))
		echo "FAIL $name $(($(date +%s) - begin))s"
		# What nodes under test logged is longer than what says why.
		grep -h '^ *{"time":' "$CACHE/stage.log" | tail -n 20
		grep -hv '^ *{"time":' "$CACHE/stage.log" | tail -n 40
		grep -hE '^ *([a-z_]+\.go:[0-9]+: |--- FAIL|panic: |WARNING: DATA RACE)' "$CACHE/stage.log" | grep -v 'a measurement, not a test' | head -n 40
		cp "$CACHE/stage.log" "$CACHE/failed-$name.log"
	fi
}

formatted() {
	bad=$(gofmt -l agent cluster roles ui deploy)
	[ -z "$bad" ] || { echo "not formatted: $bad"; return 1; }
}

# With the same flags as the binary, what it is made of is compiled once for
# both: on a fresh machine that is minutes.
vetted() {
	CGO_ENABLED=0 go vet -trimpath ./...
}

race() { # the race detector needs a C compiler
	if command -v cc >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1; then echo -race; else
		echo "no C compiler: tests run without the race detector" >&2
	fi
}

cross() {
	for target in linux/amd64 linux/arm64 darwin/arm64; do
		CGO_ENABLED=0 GOOS=${target%/*} GOARCH=${target#*/} go build -trimpath -o /dev/null ./agent/comfyume-agent || return 1
	done
}

tests() {
	stage format formatted
	stage vet vetted
	stage build-three-platforms cross
	# The whole-process and browser tests time out under the race detector's
	# load on two cores; the agent binary they drive is built without it.
	units=$(go list ./... | grep -v -e /agent/doortest -e /agent/browsertest -e /agent/comfyume-agent)
	# shellcheck disable=SC2046,SC2086
	stage unit-and-system-tests go test $(race) -timeout 15m $units
	stage isolation env COMFYUME_STORM=10000 go test -count=1 -timeout 5m -v -run '^TestNobodyReachesAnothersThings$' ./roles/gateway
	export COMFYUME_AGENT_BIN="$PWD/bin/comfyume-agent"
	stage whole-process-tests env CGO_ENABLED=0 go test -trimpath -count=1 -p 1 -timeout 15m -v ./agent/doortest ./agent/comfyume-agent
	stage browser-tests env CGO_ENABLED=0 go test -trimpath -count=1 -timeout 15m -v ./agent/browsertest
	stage chaos chaos
}

# The short form of `make chaos`: one seed, and two of the eight bugs.
chaos() {
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/chaos ./agent/chaos &&
		timeout 300 bin/chaos -seeds=1 -jobs=80 &&
		timeout 300 bin/chaos -bug=lost-dedupe,wrong-owner
}

tool() { # NAME MODULE@VERSION: installs once into .cache/bin
	[ -x "$CACHE/bin/$1" ] && [ -e "$CACHE/bin/$1.${2##*@}" ] && return 0
	GOBIN="$CACHE/bin" go install "$2" && touch "$CACHE/bin/$1.${2##*@}"
}

gofumpted() {
	bad=$("$CACHE/bin/gofumpt" -l agent cluster roles ui deploy)
	[ -z "$bad" ] || { echo "gofumpt would change: $bad"; return 1; }
}

lint() {
	stage install-gofumpt tool gofumpt mvdan.cc/gofumpt@v0.12.0
	stage install-golangci-lint tool golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	stage gofumpt gofumpted
	stage vet vetted
	stage golangci-lint "$CACHE/bin/golangci-lint" run --timeout 10m ./...
}

dist_build() {
	rm -rf dist && mkdir -p dist || return 1
	for target in linux/amd64 linux/arm64 darwin/arm64; do
		out=dist/comfyume-agent-$(echo "$target" | tr / -)
		CGO_ENABLED=0 GOOS=${target%/*} GOARCH=${target#*/} go build -trimpath -ldflags "-s -w -X main.version=${VERSION:-unknown}" -o "$out" ./agent/comfyume-agent || return 1
	done
	(cd dist && sha256sum comfyume-agent-* >sha256sums && sha256sum -c sha256sums)
}

dist_static() {
	command -v file >/dev/null 2>&1 || { echo "file is not installed: apt-get install file"; return 1; }
	for f in dist/comfyume-agent-linux-*; do
		file "$f" | grep -q 'statically linked' || { file "$f"; return 1; }
		echo "dist $f bytes=$(wc -c <"$f")"
	done
}

dist_arm64() {
	qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64) || { echo "qemu-user is not installed: apt-get install qemu-user-static"; return 1; }
	"$qemu" dist/comfyume-agent-linux-arm64 version || return 1
	COMFYUME_EMULATOR=$qemu COMFYUME_EMULATED_BIN=$PWD/dist/comfyume-agent-linux-arm64 go test -count=1 -timeout 10m -run '^TestEmulated' -v ./agent/doortest
}

dist() {
	stage build dist_build
	stage static dist_static
	if [ "$(uname -s)/$(uname -m)" = Linux/x86_64 ]; then
		stage arm64-runs-a-job dist_arm64
	fi
}

case ${1:-} in
test) tests ;;
lint) lint ;;
dist) dist ;;
*)
	echo "usage: $0 test|lint|dist" >&2
	exit 2
	;;
esac
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
