#!/bin/sh
# Brings Temporal's two databases to the schema of this image's release. They are there already, the role's own; the
# connection is in the variables SQL_*. May run again: what is there is left alone.
set -eu

schema=/etc/temporal/schema/postgresql/v12
for pair in temporal:temporal temporal_visibility:visibility; do
  database=${pair%%:*} folder=${pair##*:}
  temporal-sql-tool --database "$database" setup-schema --version 0.0
  temporal-sql-tool --database "$database" update-schema --schema-dir "$schema/$folder/versioned"
done
