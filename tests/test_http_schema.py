"""Requests made from the OpenAPI document: every answer is one that the document promises."""

from __future__ import annotations

from http_service import service_in

from benchmarks.http_fuzz import fuzz


def test_generated_requests_get_the_answers_that_the_document_promises(tmp_path):
    with service_in(tmp_path) as service:
        fuzzed = fuzz(service.app, requests=200, start=1)
    assert fuzzed.requests >= 200
    statuses = {status for _, status in fuzzed.statuses}
    assert statuses >= {200, 400, 404, 422}
    assert {label for label, _ in fuzzed.statuses} >= {"POST /v1/score", "POST /v1/select/stream"}


def test_the_document_names_every_route_its_errors_and_its_key(tmp_path):
    with service_in(tmp_path) as service:
        document = service.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for operation in methods.values():
            if not path.startswith("/v1"):
                continue
            assert operation["security"] == [{"key": []}, {}]
            for status in ("401", "429", "503"):
                content = operation["responses"][status]["content"]
                assert list(content) == ["application/problem+json"]
    for path in ("/v1/score", "/v1/select", "/v1/select/stream"):
        assert document["paths"][path]["post"]["requestBody"]["required"] is True
