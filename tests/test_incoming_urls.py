"""Images by URL: only from where it is allowed, and never anything sent to anywhere else.

A real server on 127.0.0.1 stands for the public internet, another one on 127.0.0.2 for a service
inside: the check of addresses is told that the former is public.
"""

from __future__ import annotations

import asyncio
import datetime
import gzip
import ssl
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_images import encoded
from web_server import page, web_server

from selfilter_ray.service.incoming.addresses import is_public
from selfilter_ray.service.incoming.reader import SampleReader
from selfilter_ray.service.incoming.refusals import REMEDIES, Unusable, refused
from selfilter_ray.service.incoming.schemas import SampleIn
from selfilter_ray.service.incoming.url import ImageFetcher
from selfilter_ray.service.messages import Refused
from selfilter_ray.service.settings import ServiceConfig, UrlSettings

PNG = encoded(Image.effect_noise((64, 64), 80))
LIMIT = 65_536
PUBLIC, INSIDE = "127.0.0.1", "127.0.0.2"
HOSTS = {"public.test": [PUBLIC], "inside.test": [INSIDE], "both.test": [PUBLIC, INSIDE]}
SECONDS = 20.0


async def resolver(host, port):
    """A name server; numbers are what they are."""
    if host not in HOSTS and not host[0].isdigit() and ":" not in host:
        raise OSError("no such host")
    return HOSTS.get(host, [host])


def fetcher(*ports, resolver=resolver, limit=LIMIT, ssl_context=None, **changes):
    allowed = UrlSettings(**({"allowed": True, "ports": ports, "seconds": SECONDS} | changes))
    return ImageFetcher(allowed, limit, lambda address: address == PUBLIC, resolver, ssl_context)


@asynccontextmanager
async def serving(**answers):
    """A server with a page for each path, bytes or a coroutine function of the writer."""

    async def answer(path, writer):
        content = answers[path.strip("/").partition("?")[0] or "image"]
        if callable(content):
            await content(writer)
        else:
            writer.write(content)
            await writer.drain()

    async with web_server(answer) as server:
        yield server


def fetched(path="", host="public.test", scheme="http", answers=None, **changes):
    """What is fetched from such a server: the bytes, or the refusal; and the server."""

    async def main():
        async with serving(**({"image": page(PNG)} | (answers or {}))) as server:
            url = f"{scheme}://{host}:{server.port}/{path}"
            return await result(fetcher(server.port, **changes), url), server

    return asyncio.run(main())


async def result(fetcher, url):
    try:
        return await fetcher.fetch(url)
    except Unusable as error:
        assert error.code in REMEDIES
        return error


def code_of(url, **changes):
    return asyncio.run(result(fetcher(80, 443, **changes), url)).code


# What is allowed


def test_an_image_is_fetched_with_its_host_name_and_nothing_about_us():
    content, server = fetched("image?a=b#c")
    assert content == PNG
    assert server.paths == ["/image?a=b"]
    headers = dict(line.lower().split(": ", 1) for line in server.requests[0].split("\r\n")[1:-2])
    assert headers["host"] == f"public.test:{server.port}"
    assert headers["accept-encoding"] == "identity"
    assert set(headers) <= {"host", "accept", "accept-encoding", "user-agent", "connection"}


def test_no_url_is_fetched_unless_allowed():
    refusal, server = fetched(allowed=False)
    assert refusal.code == "image_url_refused"
    assert server.connections == 0


def test_proxies_and_credentials_of_the_environment_are_not_used(monkeypatch, tmp_path):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.2:9")
    (tmp_path / ".netrc").write_text("machine public.test login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    content, server = fetched()
    assert content == PNG
    assert "authorization" not in server.requests[0].lower()


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://public.test/a.png",
        "data:image/png;base64,AAAA",
        "data:text/html,x",
        "gopher://public.test/",
        "javascript:alert(1)",
        "unix:///var/run/docker.sock",
        "http://me@public.test/",
        "http://me:secret@public.test/",
        "http://@public.test:22/",
        "http://public.test:22/",
        "http://public.test:0/",
        "http://public.test:99999/",
    ],
)
def test_other_schemes_ports_and_credentials_are_forbidden(url):
    assert code_of(url) == "image_url_refused"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "//public.test/",
        "http:",
        "http://",
        "http:///a",
        "http://a\0/",
        "http://public.test/" + "a" * 10_000,
        "http://public.test:x/",
        "http://\u2460.test/",
    ],
)
def test_what_is_no_url_is_said_to_be_none(url):
    assert code_of(url) == "image_url"


def test_only_the_hosts_of_the_list_are_asked():
    hosts = ("Public.test",)
    assert fetched(hosts=hosts)[0] == PNG
    refusal, server = fetched(host=PUBLIC, hosts=hosts)
    assert refusal.code == "image_url_refused"
    assert server.connections == 0
    for host in ("public.test.evil.test", "evil-public.test", "a.public.test", "public.test."):
        assert code_of(f"http://{host}/", hosts=hosts) == "image_url_refused"


# Addresses


LOOPBACK = ["127.0.0.1", "127.1", "0x7f.1", "2130706433", "0x7f000001", "0", "localhost"]
LOOPBACK += ["LOCALHOST", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "0.0.0.0"]
OCTAL = ["0177.0.0.1", "017700000001", "127.0.0.01"]


@pytest.mark.parametrize("host", LOOPBACK)
def test_this_machine_is_forbidden_in_every_notation(host):
    async def main():
        async with serving(image=page(PNG)) as server:
            allowed = UrlSettings(allowed=True, ports=(server.port,), seconds=SECONDS)
            own = ImageFetcher(allowed, LIMIT)  # with the real check and the real resolver
            return await result(own, f"http://{host}:{server.port}/"), server

    refusal, server = asyncio.run(main())
    assert refusal.code == "image_url_refused"
    assert server.connections == 0
    assert "127.0.0.1" not in refusal.detail.replace(host.strip("[]"), "")


@pytest.mark.parametrize("host", OCTAL)
def test_octal_numbers_reach_nobody(host):
    async def main():
        allowed = UrlSettings(allowed=True, seconds=SECONDS)
        return await result(ImageFetcher(allowed, LIMIT), f"http://{host}/")

    assert asyncio.run(main()).code in {"image_url", "image_url_refused"}


NOT_PUBLIC = """
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1
    127.255.255.254 168.63.129.16 169.254.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.192
    192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1
    239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 ::8.8.8.8 ::ffff:8.8.8.8 ::ffff:127.0.0.1
    ::ffff:0:127.0.0.1 64:ff9b::8.8.8.8 64:ff9b::127.0.0.1 64:ff9b:1::1 100::1 2001::1 2001:db8::1
    2001:10::1 2002:7f00:1:: 2002:808:808:: 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%lo
    fec0::1 ff02::1 ff0e::1
"""
OF_ALL = "1.1.1.1 8.8.8.8 100.63.255.255 172.15.0.1 172.32.0.1 2606:4700::1111 2a00:1450::1"


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_an_address_that_is_not_of_the_public_internet_is_none(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", OF_ALL.split())
def test_an_address_of_the_public_internet_is_one(address):
    assert is_public(address)


@given(st.ip_addresses(v=4))
@settings(deadline=None)
def test_an_ipv4_address_inside_an_ipv6_address_is_never_public(address):
    value = int(address)
    inside = [f"::{address}", f"::ffff:{address}", f"::ffff:0:{address}", f"64:ff9b::{address}"]
    inside += [f"2002:{value >> 16:x}:{value & 0xFFFF:x}::", f"2001:0:{value >> 16:x}::1"]
    assert not any(is_public(form) for form in inside)


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "0x7f000001", "1.1.1.1.", "8.8.8.8 "])
def test_what_is_not_written_as_an_address_is_not_public(text):
    assert not is_public(text)


def test_a_host_with_one_address_inside_is_forbidden():
    for host in ("inside.test", "both.test", INSIDE):
        refusal, server = fetched(host=host)
        assert refusal.code == "image_url_refused"
        assert server.connections == 0


def test_a_host_without_an_address_is_not_fetched():
    assert code_of("http://nobody.test/") == "image_fetch"
    assert code_of("http://" + "a." * 200 + "test/") == "image_fetch"


def test_a_name_that_resolves_to_something_else_the_second_time_gains_nothing():
    asked = []

    async def rebinding(host, port):
        asked.append(host)
        return [PUBLIC if len(asked) == 1 else INSIDE]

    async def main():
        async with serving(image=page(PNG)) as server:
            web = web_server(forbidden, INSIDE, server.port)
            async with web as inside:
                own = fetcher(server.port, resolver=rebinding)
                url = f"http://rebinding.test:{server.port}/"
                return await result(own, url), await result(own, url), server, inside

    first, second, server, inside = asyncio.run(main())
    assert first == PNG
    assert asked == ["rebinding.test"] * 2  # once for each request, and that answer was used
    assert second.code == "image_url_refused"
    assert (server.connections, inside.connections) == (1, 0)


def test_another_address_of_a_host_is_tried_when_the_first_does_not_answer():
    async def main():
        async with serving(image=page(PNG)) as server:

            async def two(host, port):
                return ["127.0.0.3", PUBLIC]

            allowed = UrlSettings(allowed=True, ports=(server.port,), seconds=SECONDS)
            own = ImageFetcher(allowed, LIMIT, lambda address: True, two)
            return await result(own, f"http://public.test:{server.port}/")

    assert asyncio.run(main()) == PNG


async def forbidden(path, writer):
    writer.write(page(PNG))
    await writer.drain()


# Redirects


def redirect(to, status="302 Found"):
    return page(b"", status, location=to, content_type="")


@pytest.mark.parametrize("status", ["301", "302", "303", "307", "308"])
def test_a_redirect_is_followed(status):
    content, server = fetched("from", answers={"from": redirect("/image?x", f"{status} x")})
    assert content == PNG
    assert server.paths == ["/from", "/image?x"]


@pytest.mark.parametrize(
    "target",
    [
        f"http://{INSIDE}:PORT/image",
        "http://inside.test:PORT/image",
        "//inside.test:PORT/image",
        "http://both.test:PORT/image",
        f"http://[::ffff:{INSIDE}]:PORT/image",
        "http://2130706434:PORT/image",
        f"http://me@{PUBLIC}:PORT/image",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "http://public.test:1/image",
        "HTTP://INSIDE.TEST:PORT/",
    ],
)
def test_a_redirect_to_a_forbidden_place_is_not_followed(target):
    async def main():
        async def move(writer):
            writer.write(redirect(target.replace("PORT", str(server.port))))
            await writer.drain()

        async with serving(move=move, image=page(PNG)) as server:
            web = web_server(forbidden, INSIDE, server.port)
            url = f"http://public.test:{server.port}/move"
            async with web as inside:
                return await result(fetcher(server.port), url), server, inside

    refusal, server, inside = asyncio.run(main())
    assert refusal.code == "image_url_refused"
    assert server.paths == ["/move"]
    assert inside.connections == 0


def test_a_redirect_to_another_host_needs_that_host_on_the_list():
    async def main():
        async def move(writer):
            writer.write(redirect(f"http://{PUBLIC}:{server.port}/image"))
            await writer.drain()

        async with serving(move=move, image=page(PNG)) as server:
            own = fetcher(server.port, hosts=("public.test",))
            url = f"http://public.test:{server.port}/move"
            return await result(own, url), server

    refusal, server = asyncio.run(main())
    assert refusal.code == "image_url_refused"
    assert server.paths == ["/move"]


@pytest.mark.parametrize("redirects", [0, 2])
def test_redirects_without_end_end(redirects):
    refusal, server = fetched("loop", answers={"loop": redirect("/loop")}, redirects=redirects)
    assert refusal.code == "image_fetch"
    assert len(server.requests) == redirects + 1


@pytest.mark.parametrize(("target", "code"), [("", "image_fetch"), ("http://x:y/", "image_url")])
def test_a_redirect_to_nowhere_is_refused(target, code):
    assert fetched("x", answers={"x": redirect(target)})[0].code == code


# Answers


COMPRESSED = gzip.compress(PNG)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (page(PNG, "404 Not Found"), "image_fetch"),
        (page(PNG, "500 Oops"), "image_fetch"),
        (page(b"", "204 No Content"), "image_fetch"),
        (page(PNG, "206 Partial Content"), "image_fetch"),
        (page(PNG, content_type="text/html"), "image_fetch"),
        (page(PNG, content_type="application/octet-stream"), "image_fetch"),
        (page(PNG, content_type=""), "image_fetch"),
        (page(COMPRESSED, content_encoding="gzip"), "image_fetch"),
        (page(COMPRESSED, content_encoding="br"), "image_fetch"),
        (page(PNG, content_encoding="gzip, identity"), "image_fetch"),
        (page(PNG, content_length=str(LIMIT + 1)), "image_too_large"),
        (page(PNG, content_length="9" * 400), "image_fetch"),
        (page(PNG, content_length="-1"), "image_fetch"),
        (page(PNG, content_length=str(len(PNG) + 1)), "image_fetch"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", "image_fetch"),
        (b"SSH-2.0-OpenSSH_9.0\r\n", "image_fetch"),
        (b"", "image_fetch"),
        (PNG, "image_fetch"),
    ],
)
def test_an_answer_that_is_no_whole_image_is_refused(answer, code):
    assert fetched(answers={"image": answer})[0].code == code


def test_an_image_may_have_parameters_and_come_in_chunks():
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (PNG[:99], PNG[99:], b""))
    headers = {"content_type": "Image/PNG; q=1", "transfer_encoding": "chunked"}
    answer = page(chunks, content_length="", **headers)
    assert fetched(answers={"image": answer})[0] == PNG
    assert fetched(answers={"image": page(PNG, content_encoding="identity")})[0] == PNG


@pytest.mark.parametrize("headers", [{"transfer_encoding": "chunked"}, {"connection": "close"}])
def test_a_body_without_end_is_left_at_the_limit(headers):
    sent = 0

    async def endless(writer):
        nonlocal sent
        writer.write(page(b"", content_length="", **headers))
        part = b"1000\r\n" + bytes(4096) + b"\r\n"
        while True:
            writer.write(part)
            await writer.drain()
            sent += len(part)

    refusal, _ = fetched(answers={"image": endless})
    assert refusal.code == "image_too_large"
    assert sent < 2**26  # what the buffers of both ends took


async def silent(writer):
    await asyncio.sleep(60)


async def dripping(writer):
    writer.write(page(b"", content_length="60000"))
    for _ in range(600):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.1)


async def redirecting_slowly(writer):
    await asyncio.sleep(0.2)
    writer.write(redirect("/image"))
    await writer.drain()


@pytest.mark.parametrize("slow", [silent, dripping, redirecting_slowly])
def test_the_time_of_all_together_is_limited(slow):
    refusal, _ = fetched(answers={"image": slow}, seconds=0.5, redirects=10)
    assert refusal.code == "image_fetch"
    assert "0.5 s" in refusal.detail


def test_a_port_without_a_server_is_a_failure_to_fetch():
    async def main():
        async with serving() as server:
            pass
        return await result(fetcher(server.port), f"http://public.test:{server.port}/")

    assert asyncio.run(main()).code == "image_fetch"


# TLS


def certificate(tmp_path, name):
    """Contexts of a server that is called so, and of a client that trusts it."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key.pem").write_bytes(key.private_bytes(encoding, *plain))
    (tmp_path / "cert.pem").write_bytes(made.public_bytes(encoding))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return server, ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))


@pytest.mark.parametrize(("host", "whole"), [("public.test", True), ("other.test", False)])
def test_with_tls_the_certificate_must_be_of_the_name_and_not_of_the_address(tmp_path, host, whole):
    server_side, client_side = certificate(tmp_path, "public.test")

    async def same(host, port):
        return [PUBLIC]

    async def main():
        names = []
        server_side.sni_callback = lambda _, name, __: names.append(name)
        async with web_server(forbidden, tls=server_side) as server:
            own = fetcher(server.port, resolver=same, ssl_context=client_side)
            return await result(own, f"https://{host}:{server.port}/"), names, server

    answer, names, server = asyncio.run(main())
    assert names == [host]
    assert len(server.requests) == whole
    assert answer == PNG if whole else answer.code == "image_fetch"


def test_an_unknown_certificate_is_not_trusted(tmp_path):
    server_side, _ = certificate(tmp_path, "public.test")

    async def main():
        async with web_server(forbidden, tls=server_side) as server:
            url = f"https://public.test:{server.port}/"
            return await result(fetcher(server.port), url), server

    refusal, server = asyncio.run(main())
    assert refusal.code == "image_fetch"
    assert server.requests == []


# As part of a sample


def read(path, answers):
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]

    async def main():
        async with serving(**answers) as server:
            url = f"http://public.test:{server.port}/{path}"
            tree = {"id": "a", "conversations": turns, "image": {"url": url}}
            config = ServiceConfig(run_dir="run")
            reader = SampleReader(config, (1, 1), fetcher(server.port))
            return await reader.read(SampleIn.model_validate(tree))

    return asyncio.run(main())


def test_a_fetched_image_is_checked_like_any_other():
    assert read("image", {"image": page(PNG)}).images == (PNG,)
    svg = page(b"<svg xmlns='http://www.w3.org/2000/svg'/>", content_type="image/svg+xml")
    for content, code in ((svg, "image_format"), (page(b""), "image_broken")):
        refusal = read("image", {"image": content})
        assert isinstance(refusal, Refused)
        assert refusal.code == code


def test_a_refused_url_is_forbidden_and_a_failed_one_cannot_be_processed():
    assert refused("a", Unusable("image_url_refused", "x")).status == 403
    assert refused("a", Unusable("image_fetch", "x")).status == 422
    assert refused("a", Unusable("image_url", "x")).status == 422
    assert read("image", {"image": page(b"", "404 No")}).status == 422
