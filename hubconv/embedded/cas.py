"""The xet store over HTTP, on the CDN origin: xorbs and shards in, plans and xorb ranges out."""

from collections.abc import AsyncIterator

from starlette.responses import Response

from hubconv.embedded.bodies import FileSource, body_answer, wanted_range
from hubconv.embedded.records import LargeObject, now
from hubconv.embedded.refusals import Refusal
from hubconv.embedded.wire import Call, Route, json_answer
from hubconv.embedded.xetstore import XetFile

_HEX = frozenset("0123456789abcdef")


async def receive_xorb(call: Call, body: AsyncIterator[bytes]) -> Response:
    """Take a xorb."""
    call.state.check_xet_token(call.headers.get("authorization"), write=True)
    xorb = _checked_hash(call.params["hash"])
    with call.state.blobs.incoming() as incoming:
        async for block in body:
            await call.run(incoming.write, block)
        incoming.close()
        is_new = await call.run(call.state.xet.keep_xorb, xorb, incoming.path)
    return json_answer({"was_inserted": is_new})


def receive_shard(call: Call) -> Response:
    """Take a shard: from now on the token's repository holds the files it describes."""
    key = call.state.check_xet_token(call.headers.get("authorization"), write=True)
    repo = call.state.catalog.find_by_key(key)
    for file in call.state.xet.keep_shard(call.body):
        if file.sha256 is not None and file.size > 0:
            repo.save_large(LargeObject(file.sha256, file.size, file.hash, now()))
    return json_answer({"result": 1})


def not_served(_call: Call) -> Response:
    """Decline a part of the xet protocol that the client can do without."""
    raise Refusal(404, "This Hub does without it.")


def plan(call: Call) -> Response:
    """Say which chunks make up a file, or a range of it."""
    key = call.state.check_xet_token(call.headers.get("authorization"), write=False)
    file = call.state.xet.file(_checked_hash(call.params["hash"]))
    if file is None or not _may_read(call, key, file):
        raise Refusal(404, "File not found in the xet store")
    wanted = wanted_range(call.headers.get("range"), file.size)
    first, end = wanted or (0, file.size)
    origin = call.state.inner_cdn if key == "internal" else call.state.cdn
    xorbs = f"{origin}/xorb/{call.state.sign('xorbs')}/"
    return json_answer(call.state.xet.plan(file, first, end, xorbs))


def xorb(call: Call) -> Response:
    """Answer with bytes of a xorb."""
    if call.params["token"] != call.state.sign("xorbs"):
        raise Refusal(403, "The signature of this link is wrong.")
    path = call.state.xet.xorb_path(_checked_hash(call.params["hash"]))
    if not path.exists():
        raise Refusal(404, "Xorb not found")
    return body_answer(call, path.stat().st_size, FileSource(path), {})


def _may_read(call: Call, key: str, file: XetFile) -> bool:
    """Whether the token's repository holds the file; the Hub itself may read all."""
    if key == "internal":
        return True
    repo = call.state.catalog.find_by_key(key)
    return file.sha256 is None or repo.large(file.sha256) is not None


def _checked_hash(text: str) -> str:
    if len(text) != 64 or not set(text) <= _HEX:
        raise Refusal(400, f"Not a xet hash: {text}")
    return text


CDN_ROUTES = [
    Route("POST", "/v1/xorbs/default/{hash}", "xorb", stream=receive_xorb),
    Route("POST", "/v1/shards", "shard", receive_shard),
    Route("GET", "/v1/reconstructions/{hash}", "plan", plan),
    Route("GET", "/v2/reconstructions/{hash}", "xet_optional", not_served),
    Route("GET", "/v1/chunks/default/{hash}", "xet_optional", not_served),
    Route("POST", "/v1/xorb-grants/default/{hash}", "xet_optional", not_served),
    Route("POST", "/v2/shards", "xet_optional", not_served),
    Route("POST", "/v1/telemetry", "telemetry", not_served),
    Route("GET", "/xorb/{token}/{hash}", "xorb", xorb),
]
