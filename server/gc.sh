#!/bin/sh
# Remove for ever what was deleted in MLflow more than AGE ago, with its files: ./gc.sh 30d
set -eu
cd "$(dirname "$0")"
docker compose exec -T -e AGE="${1:?expected an age such as 30d}" mlflow sh -c '
  export MLFLOW_TRACKING_USERNAME="$MLFLOW_AUTH_ADMIN_USERNAME" MLFLOW_TRACKING_PASSWORD="$MLFLOW_AUTH_ADMIN_PASSWORD"
  mlflow gc --older-than "$AGE" --tracking-uri http://localhost:5000 --backend-store-uri postgresql+psycopg://mlflow@database/mlflow'
