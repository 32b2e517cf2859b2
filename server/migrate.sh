#!/bin/sh
# Copy the MLflow store of one machine (mlflow.db and mlartifacts in FOLDER) into the new server: ./migrate.sh FOLDER
set -eu
folder=$(cd "${1:?expected the folder with mlflow.db}" && pwd)
cd "$(dirname "$0")"
docker compose run --rm -T --no-deps --user "$(id -u):$(id -g)" --volume "$folder:/former:ro" mlflow \
  python /server/migrate.py /former
