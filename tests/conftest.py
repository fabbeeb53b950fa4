"""What the whole run shares: one Spark session, real data where they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Examples have no time limit: a test that is slow on a busy machine is not wrong.
hypothesis.settings.register_profile("lensdata", deadline=None)
hypothesis.settings.load_profile("lensdata")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """One local session of two threads for the whole run; jobs called through ``main(argv)`` find and use it."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    from pyspark.sql import SparkSession

    from spark_jobs.session import SETTINGS

    builder = SparkSession.builder.master("local[2]").appName("tests")
    more = {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "2g",
        "spark.sql.shuffle.partitions": "2",
        # Every job is short: the second compiler costs more than it gains.
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    }
    for key, value in (SETTINGS | more).items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real survey data, or a skip that says why."""
    folder = os.environ.get("LENSDATA_REAL_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LENSDATA_REAL_DATA does not name a folder of real survey data")
    return Path(folder)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3 bucket of a local server, found by the usual variables."""
    import boto3
    from moto.server import ThreadedMotoServer

    from lensdata import storage

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    values = {
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    storage._s3.cache_clear()
    storage._arrow_s3.cache_clear()
    boto3.client("s3").create_bucket(Bucket="stamps")
    yield "s3://stamps"
    server.stop()
    for key, value in before.items():
        os.environ.pop(key) if value is None else os.environ.update({key: value})
    storage._s3.cache_clear()
    storage._arrow_s3.cache_clear()
