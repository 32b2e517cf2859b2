#!/bin/sh
# Save database and files of the server into a new folder: ./backup.sh FOLDER. MLflow is away meanwhile.
set -eu
folder=${1:?expected a folder for the backup}
mkdir "$folder"
folder=$(cd "$folder" && pwd)
cd "$(dirname "$0")"
trap 'docker compose start store mlflow' EXIT
docker compose stop mlflow store
docker compose exec -T database pg_dump --username mlflow --format custom mlflow > "$folder/database.dump"
docker compose run --rm -T --no-deps --entrypoint tar store -C /data -cf - . > "$folder/store.tar"
