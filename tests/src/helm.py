"""Helm itself, as a library: `helm.py lint CHART`, `helm.py template CHART NAME NAMESPACE`, `helm.py validate VERSION...`.

`lint` and `template` read values as JSON from standard input and print JSON: the report, or each rendered manifest by its template's path.
`validate` reads manifests as YAML and checks each against the API's own schemas, unknown fields included. What is wrong goes to standard error.
"""

import json
import sys

import helm_python as helm
import kubernetes_validate
import yaml


def lint(chart):
    return helm.lint(chart, json.load(sys.stdin), strict=True, namespace="mesh-system")


def template(chart, name, namespace):
    chart, values = helm.Chart.load(chart), json.load(sys.stdin)
    chart.validate_schema(values)
    return chart.render(values, name=name, namespace=namespace)


def validate(*versions):
    manifests = [m for m in yaml.safe_load_all(sys.stdin) if m]
    for version in versions:
        for manifest in manifests:
            kubernetes_validate.validate(manifest, version, strict=True)
    return {"manifests": len(manifests), "versions": versions, "helm": helm.helm_sdk_version()}


def main(task, *args):
    try:
        print(json.dumps({"lint": lint, "template": template, "validate": validate}[task](*args)))
    except Exception as error:
        # A validation error's text holds the whole schema, its message one sentence.
        sys.exit(f"{type(error).__name__}: {getattr(error, 'message', error)}")


main(*sys.argv[1:])
