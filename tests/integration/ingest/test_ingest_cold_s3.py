"""Cold days in an S3-compatible store that this project did not write (moto's server)."""

import socket
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import boto3  # type: ignore[import-untyped]
import polars as pl
import pytest
from moto.server import ThreadedMotoServer

from libs.common.db import Database
from libs.common.errors import InvalidInput
from libs.common.settings import DatabaseSettings
from services.ingest.settings import ColdSettings
from services.ingest.store.coldfiles import ColdFiles, ColdUnavailable, LocalFiles, S3Files, open_cold_files
from tests.integration.ingest.test_ingest_cold import DAY, FIRST, cool, hot_days, read, report, some_reports, store

BUCKET, REGION, KEY, SECRET = "wattring-history", "cn-north-1", "an-access-key", "a-secret-key"


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    database = Database(DatabaseSettings(url=postgres_url), schema="ingest", role="wattring_ingest")
    await database.open()
    yield database
    await database.close()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def bucket(endpoint: str) -> Iterator[str]:
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name=REGION, aws_access_key_id=KEY, aws_secret_access_key=SECRET
    )
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    yield endpoint
    for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=found["Key"])
    client.delete_bucket(Bucket=BUCKET)
    client.close()


def settings(endpoint: str) -> ColdSettings:
    return ColdSettings(
        url=f"s3://{BUCKET}/operator/", s3_endpoint=endpoint, s3_region=REGION, s3_access_key=KEY, s3_secret_key=SECRET
    )


def opened(endpoint: str) -> ColdFiles:
    found = open_cold_files(settings(endpoint))
    assert isinstance(found, S3Files)
    return found


@pytest.mark.integration
@pytest.mark.postgres
async def test_days_go_to_the_bucket_are_rewritten_and_read_there(db: Database, bucket: str) -> None:
    files = opened(bucket)
    reports = some_reports(5)
    await store(db, reports[:80])
    for number in range(3):
        assert (await cool(db, files, FIRST + number * DAY))["outcome"] == "moved"
    await store(db, reports[80:])
    both = await read(db, files)
    assert sum(map(len, both.values())) == len(reports)
    for number in range(3):
        await cool(db, files, FIRST + number * DAY)
    assert await hot_days(db) == []
    assert await read(db, files) == both
    others = pl.scan_parquet(
        f"s3://{BUCKET}/operator/readings/",
        storage_options={
            "aws_endpoint_url": bucket, "aws_region": REGION, "aws_access_key_id": KEY,
            "aws_secret_access_key": SECRET, "aws_allow_http": "true",
        },
        credential_provider=None,
    ).collect()  # fmt: skip
    assert len(others) == len(reports)


@pytest.mark.integration
def test_object_that_is_gone_can_be_deleted_again_and_not_read(bucket: str) -> None:
    files = opened(bucket)
    name = "readings/day=2026-03-01/part-00000.parquet"
    written = files.put(name, lambda path: pl.DataFrame({"device_id": ["m-1"]}).write_parquet(path))
    assert (len(written.sha256), written.bytes > 0) == (64, True)
    assert files.scan(name).collect()["device_id"].to_list() == ["m-1"]
    files.delete(name)
    files.delete(name)


@pytest.mark.integration
@pytest.mark.postgres
async def test_store_that_is_away_loses_nothing(db: Database, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.ingest.store.coldfiles.RETRIES", 0)
    await store(db, [report("m-1", FIRST, {"voltage_a": 230.0})])
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = opened(f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(ColdUnavailable, match="s3://wattring-history/operator/readings/day=2026-03-01"):
            await cool(db, away)
        assert SECRET not in away.place
    assert await hot_days(db) == [FIRST.date()]
    await cool(db, opened(bucket))
    await store(db, [report("m-1", FIRST + timedelta(seconds=1), {"voltage_a": 230.0})])
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(ColdUnavailable):
            await read(db, opened(f"http://127.0.0.1:{nobody.getsockname()[1]}"))


def test_address_is_a_folder_a_bucket_or_refused() -> None:
    assert open_cold_files(ColdSettings()) is None
    assert isinstance(open_cold_files(ColdSettings(url="/var/lib/wattring/history")), LocalFiles)
    found = open_cold_files(ColdSettings(url="file:///var/lib/wattring/history"))
    assert found is not None
    assert found.place == "/var/lib/wattring/history"
    for wrong in ("ftp://host/folder", "s3:///prefix"):
        with pytest.raises(InvalidInput, match="COLD__URL"):
            open_cold_files(ColdSettings(url=wrong))
