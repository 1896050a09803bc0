#!/bin/sh
# Makes the databases and the roles that own them, when PostgreSQL starts for the first time. Its superuser is nobody's
# but the administrator's.
set -eu

make() { # make ROLE PASSWORD DATABASE...
  role=$1 password=$2
  shift 2
  # The password goes in by the environment: arguments are for all to see.
  PASSWORD=$password psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" \
    --dbname "${POSTGRES_DB:-postgres}" --set role="$role" <<'SQL'
\getenv password PASSWORD
CREATE ROLE :"role" LOGIN PASSWORD :'password';
SQL
  for database in "$@"; do
    psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" \
      --dbname "${POSTGRES_DB:-postgres}" --set role="$role" --set database="$database" <<'SQL'
CREATE DATABASE :"database" OWNER :"role";
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
SQL
  done
}

: "${POSTGRES_NIGHTMILL_PASSWORD:?is empty}" "${POSTGRES_TEMPORAL_PASSWORD:?is empty}"
make nightmill "$POSTGRES_NIGHTMILL_PASSWORD" nightmill
make temporal "$POSTGRES_TEMPORAL_PASSWORD" temporal temporal_visibility
