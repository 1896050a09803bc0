#!/bin/sh
# Makes the namespace, unless it is there, and returns when it can be used. The Temporal CLI takes address and namespace
# from TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE. The search attributes are registered by the worker.
set -eu

namespace=${TEMPORAL_NAMESPACE:-default} retention=${RETENTION:-7d} left=${ATTEMPTS:-60}

try_again() { # try_again WHAT
  left=$((left - 1))
  [ "$left" -gt 0 ] || { echo "$1" >&2; exit 1; }
  sleep "${PAUSE:-2}"
}

until temporal operator cluster health >/dev/null 2>&1; do
  try_again "Temporal does not answer on ${TEMPORAL_ADDRESS:-127.0.0.1:7233}; see its log"
done
# Asked again each time: a create that failed may have been done all the same, or by somebody else.
until temporal operator namespace describe --namespace "$namespace" >/dev/null 2>&1; do
  temporal operator namespace create --namespace "$namespace" --retention "$retention" \
    || try_again "the namespace $namespace cannot be made; the line above says why"
done
# Temporal's services see a new namespace some seconds later.
until temporal workflow list --namespace "$namespace" --limit 1 >/dev/null 2>&1; do
  try_again "the namespace $namespace is there, but cannot be used; see Temporal's log"
done
echo "namespace $namespace is ready"
