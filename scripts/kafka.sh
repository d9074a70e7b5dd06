#!/usr/bin/env bash
# Fetches Kafka's jars (kafka/pom.xml) with Maven into kafka/jars and checks every one against kafka/jars.sha256.
set -euo pipefail
cd "$(dirname "$0")/../kafka"

command -v mvn >/dev/null || { echo "kafka: Maven is missing; run: apt-get install maven" >&2; exit 1; }
echo "kafka: fetching the jars with Maven" >&2
rm -rf jars.new
trap 'rm -rf jars.new' EXIT
for try in 1 2 3; do
    mvn -q -B "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies" -DoutputDirectory="$PWD/jars.new" >&2 && break
    [ "$try" -lt 3 ] || { echo "kafka: Maven failed (see above); is a repository reachable?" >&2; exit 1; }
    sleep $((try * 2))
done
(cd jars.new && sha256sum --check --quiet --strict ../jars.sha256) >&2 ||
    { echo "kafka: what came is not what kafka/jars.sha256 says; nothing was put in place" >&2; exit 1; }
[ "$(find jars.new -name '*.jar' | wc -l)" -eq "$(wc -l <jars.sha256)" ] ||
    { echo "kafka: there are jars that kafka/jars.sha256 does not know; nothing was put in place" >&2; exit 1; }
rm -rf jars
mv jars.new jars
