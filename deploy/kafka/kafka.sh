#!/usr/bin/env bash
# One Apache Kafka node (KRaft, no ZooKeeper) on loopback, for tests and for trying the distributed shape.
#
#   kafka.sh jars                fetch the jars with Maven, once, outside git
#   kafka.sh start               start a node, wait until it answers, print its bootstrap address
#   kafka.sh bootstrap           print the address of the node that was started
#   kafka.sh stop                stop it; its data stay
#
# KAFKA_PORT        port of the node (default 9092); the controller listens on the next one unless
# KAFKA_CONTROLLER_PORT says otherwise
# KAFKA_DATA        folder of its data, settings and log (default <cache>/kafka/data)
# KAFKA_HEAP_MB     heap of its Java machine (default 384)
# KAFKA_JAVA_OPTS   more options for it; -XX:TieredStopAtLevel=1 starts in half the time and runs slower
# KAFKA_CACHE       folder for the jars (default .cache in the project)
# KAFKA_SETTINGS    file with further settings of the node; they win (listeners with TLS or SASL, for tests)
# KAFKA_FORMAT      options for the first start, such as --add-scram SCRAM-SHA-512=[name=…,password=…]
#
# A real installation uses a real cluster: name it in KAFKA_BOOTSTRAP_SERVERS and leave this script alone.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KAFKA_CACHE:-$(cd "$here/../.." && pwd)/.cache}/kafka
data=${KAFKA_DATA:-$cache/data}
port=${KAFKA_PORT:-9092}
controller=${KAFKA_CONTROLLER_PORT:-$((port + 1))}
heap=${KAFKA_HEAP_MB:-384}
# The folder is named after the pom, so that another version fetches its own jars.
libs=$cache/libs-$(sha256sum "$here/pom.xml" | cut -c1-12)

fail() {
    echo "kafka.sh: $*" >&2
    exit 1
}

need() {
    command -v "$1" >/dev/null || fail "$1 is missing; on Debian or Ubuntu: apt-get install -y $2"
}

jars() {
    [ -d "$libs" ] && return
    need java default-jre-headless
    need mvn maven
    mkdir -p "$cache"
    (
        # Two who come at once: the second waits, and finds them there.
        flock 9
        [ -d "$libs" ] && exit
        rm -rf "$libs.part"
        mvn --quiet --batch-mode -f "$here/pom.xml" dependency:copy-dependencies \
            -DincludeScope=runtime -DoutputDirectory="$libs.part" >&2
        mv "$libs.part" "$libs"
    ) 9>"$cache/lock"
}

settings() {
    cat <<-SETTINGS
	process.roles=broker,controller
	node.id=1
	controller.quorum.voters=1@127.0.0.1:$controller
	controller.listener.names=CONTROLLER
	listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
	advertised.listeners=PLAINTEXT://127.0.0.1:$port
	listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
	log.dirs=$data/log
	auto.create.topics.enable=false
	offsets.topic.replication.factor=1
	offsets.topic.num.partitions=4
	transaction.state.log.replication.factor=1
	transaction.state.log.min.isr=1
	share.coordinator.state.topic.replication.factor=1
	share.coordinator.state.topic.min.isr=1
	group.initial.rebalance.delay.ms=0
	group.min.session.timeout.ms=1000
	log.index.size.max.bytes=1048576
	log.cleaner.backoff.ms=300
	log.cleaner.dedupe.buffer.size=8388608
	log.retention.check.interval.ms=1000
	broker.session.timeout.ms=2000
	broker.heartbeat.interval.ms=500
	num.network.threads=2
	num.io.threads=4
	SETTINGS
}

java=(java -Xms96m "-Xmx${heap}m" -XX:+UseSerialGC -XX:+ExitOnOutOfMemoryError -Djava.net.preferIPv4Stack=true
    ${KAFKA_JAVA_OPTS:-}
    "-Dlog4j2.configurationFile=$here/log4j2.properties" -cp "$libs/*")

running() {
    [ -f "$data/pid" ] && kill -0 "$(cat "$data/pid")" 2>/dev/null &&
        tr '\0' ' ' <"/proc/$(cat "$data/pid")/cmdline" 2>/dev/null | grep -q "kafka.Kafka $data/"
}

answers() {
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null
}

start() {
    need java default-jre-headless
    jars
    if running; then
        cat "$data/bootstrap"
        return
    fi
    answers && fail "port $port is taken; choose another with KAFKA_PORT"
    mkdir -p "$data"
    settings >"$data/server.properties"
    [ -z "${KAFKA_SETTINGS:-}" ] || cat "$KAFKA_SETTINGS" >>"$data/server.properties"
    if [ ! -f "$data/log/meta.properties" ]; then
        # A cluster id is 16 random bytes in base64 without padding, and may not begin like an option.
        id=x$(head -c 32 /dev/urandom | base64 | tr -d '+/=\n' | cut -c1-21)
        read -ra options <<<"${KAFKA_FORMAT:-}"
        "${java[@]}" kafka.tools.StorageTool format --cluster-id "$id" --config "$data/server.properties" "${options[@]}" \
            >"$data/format.log" 2>&1 || fail "cannot format $data/log: $(tail -3 "$data/format.log")"
    fi
    setsid "${java[@]}" kafka.Kafka "$data/server.properties" >>"$data/node.log" 2>&1 </dev/null &
    echo $! >"$data/pid"
    disown
    for _ in $(seq 600); do
        kill -0 "$(cat "$data/pid")" 2>/dev/null || fail "the node ended at once: $(tail -5 "$data/node.log")"
        if answers; then
            echo "127.0.0.1:$port" | tee "$data/bootstrap"
            return
        fi
        sleep 0.1
    done
    fail "the node does not answer after 60 s; see $data/node.log"
}

stop() {
    running || return 0
    pid=$(cat "$data/pid")
    kill "$pid"
    for _ in $(seq 150); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null || true
    rm -f "$data/pid" "$data/bootstrap"
}

case ${1:-} in
    jars) jars && echo "$libs" ;;
    start) start ;;
    stop) stop ;;
    bootstrap) running && cat "$data/bootstrap" ;;
    *) fail "usage: kafka.sh jars|start|bootstrap|stop" ;;
esac
