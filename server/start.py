"""Start MLflow's server in its container: make the bucket, write the settings of the user names, serve."""

import os
from pathlib import Path

import boto3

BUCKET = "mlflow"
DATABASE = "postgresql+psycopg://mlflow@database/mlflow"  # the password is in PGPASSWORD
AUTH = f"""[mlflow]
default_permission = {os.environ.get("MLFLOW_PERMISSION") or "MANAGE"}
database_uri = {DATABASE}
"""


def main() -> None:
    """Replace this process by the server."""
    store = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    if BUCKET not in [bucket["Name"] for bucket in store.list_buckets()["Buckets"]]:
        store.create_bucket(Bucket=BUCKET)
    settings = Path("/tmp/auth.ini")
    settings.write_text(AUTH, encoding="utf-8")
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(settings)
    command = ["mlflow", "server", "--app-name", "basic-auth", "--host", "0.0.0.0", "--port", "5000", "--workers", "2"]
    command += ["--backend-store-uri", DATABASE, "--artifacts-destination", f"s3://{BUCKET}"]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
