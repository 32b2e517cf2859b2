#!/bin/sh
# Replace database and files of the server by a backup: ./restore.sh FOLDER. What was logged after it is lost.
set -eu
folder=$(cd "${1:?expected the folder of a backup}" && pwd)
test -s "$folder/database.dump" && test -s "$folder/store.tar"
cd "$(dirname "$0")"
docker compose up --detach --wait database
docker compose stop mlflow store
docker compose exec -T database sh -c '
  dropdb --username mlflow --maintenance-db postgres --if-exists mlflow && createdb --username mlflow --maintenance-db postgres mlflow
  pg_restore --username mlflow --dbname mlflow --exit-on-error' < "$folder/database.dump"
docker compose run --rm -T --no-deps --entrypoint sh store -c 'find /data -mindepth 1 -delete && tar -C /data -xf -' < "$folder/store.tar"
docker compose up --detach --wait
