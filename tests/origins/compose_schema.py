"""Holds a compose file against the JSON Schema of the Compose Specification: compose_schema.py SCHEMA FILE. Says what is wrong, and fails."""

import json
import sys

import jsonschema
import yaml


def main(schema_path, path):
    with open(schema_path) as schema, open(path) as file:
        validator = jsonschema.Draft7Validator(json.load(schema))
        wrong = list(validator.iter_errors(yaml.safe_load(file)))
    for error in wrong:
        print(f"{path}: {error.json_path}: {error.message}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
