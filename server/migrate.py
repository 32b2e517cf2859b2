"""Copy the MLflow store of one machine (mlflow.db, mlartifacts) into the team's server, with all ids.

migrate.sh calls it in the server's container. The server's store must be new; the former one is only read.
"""

import os
import re
import sys
from pathlib import Path

import boto3
import sqlalchemy as sa
from start import BUCKET, DATABASE

ARTIFACTS = "mlartifacts"
LOCATIONS = {"artifact_location", "artifact_uri", "source", "storage_location"}  # columns
ROWS = 5000  # at once


def moved(value: object) -> object:
    """A location on the former machine, as the server has it; other values as they are."""
    if not isinstance(value, str):
        return value
    return re.sub(rf"^(file:|/).*?/{ARTIFACTS}(?=/|$)", f"mlflow-artifacts:/{ARTIFACTS}", value)


def main(folder: Path) -> str:
    """Copy. Returns what was done; ends with a sentence if it cannot be done."""
    file = folder / "mlflow.db"
    if not os.access(file, os.R_OK):
        sys.exit(f"{file.name}: expected the MLflow store of a machine; there is none that {os.getuid()} can read")
    former = sa.create_engine(f"sqlite:///file:{file}?mode=ro&immutable=1&uri=true")
    new = sa.create_engine(DATABASE)
    theirs, ours = sa.MetaData(), sa.MetaData()
    theirs.reflect(former)
    ours.reflect(new)
    counts = {}
    with former.connect() as source, new.begin() as target:
        versions = [c.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() for c in (source, target)]
        if versions[0] != versions[1]:
            sys.exit(
                f"{file}: has schema {versions[0]}, the server {versions[1]}; first, with the server's version of "
                "MLflow and a copy of the file: mlflow db upgrade sqlite:///mlflow.db"
            )
        if target.execute(sa.text("SELECT count(*) FROM runs")).scalar():
            sys.exit("the server has runs already; expected a new one, because ids of experiments would collide")
        names = theirs.tables.keys() - {"alembic_version"}
        tables = [table for table in ours.sorted_tables if table.name in names]
        for table in reversed(tables):
            target.execute(table.delete())  # the rows that each store begins with
        for table in tables:
            old = theirs.tables[table.name]
            columns = [old.columns[column.name] for column in table.columns if column.name in old.columns]
            result = source.execute(sa.select(*columns))
            while rows := result.fetchmany(ROWS):
                values = [
                    {name: moved(value) if name in LOCATIONS else value for name, value in row._mapping.items()}
                    for row in rows
                ]
                target.execute(table.insert(), values)
                counts[table.name] = counts.get(table.name, 0) + len(values)
        for table in tables:  # the numbers that the database counts itself
            for column in table.primary_key.columns:
                sequence = target.execute(sa.select(sa.func.pg_get_serial_sequence(table.name, column.name))).scalar()
                if sequence and (largest := target.execute(sa.select(sa.func.max(column))).scalar()):
                    target.execute(sa.select(sa.func.setval(sequence, largest)))
        files = upload(folder / ARTIFACTS)
    runs, versions = counts.get("runs", 0), counts.get("model_versions", 0)
    return f"{runs} runs, {versions} versions of models, {files} files of artifacts"


def upload(folder: Path) -> int:
    """Copy the artifacts into the bucket; returns the number of files."""
    store = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        store.upload_file(str(path), BUCKET, f"{ARTIFACTS}/{path.relative_to(folder)}")
    return len(files)


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
