"""The Engine API as data: Docker's own description of it (Swagger), and what has been added to it since.

The description is that of API 1.41, from Debian's package of Docker's source. `ADDED` has the later versions' part
that Naru serves; Naru's route table adds every endpoint that is in neither.
"""

import os
import re

import yaml
from testkit.engine import ROOT

SWAGGER = os.path.join(ROOT, "target/swagger/swagger.yaml")
ROUTES = os.path.join(ROOT, "crates/surface/docker-wire/src/routes.rs")

STRING, INTEGER, BOOLEAN = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
STRINGS = {"type": "object", "additionalProperties": STRING}

# Definition: properties that came with API 1.42 and later.
ADDED_PROPERTIES = {
    "HostConfig": {"Annotations": STRINGS, "ConsoleSize": {"type": "array", "items": INTEGER}, "CgroupnsMode": {"type": "string", "enum": ["private", "host"]}},
    "HealthConfig": {"StartInterval": INTEGER},
    "Mount": {
        "BindOptions": {"type": "object", "properties": {"CreateMountpoint": BOOLEAN, "ReadOnlyNonRecursive": BOOLEAN, "ReadOnlyForceRecursive": BOOLEAN, "NonRecursive": BOOLEAN, "Propagation": STRING}},
        "VolumeOptions": {"type": "object", "properties": {"Subpath": STRING, "NoCopy": BOOLEAN, "Labels": STRINGS, "DriverConfig": {"type": "object", "properties": {"Name": STRING, "Options": STRINGS}}}},
        "ImageOptions": {"type": "object", "properties": {"Subpath": STRING}},
        "TmpfsOptions": {"type": "object", "properties": {"SizeBytes": INTEGER, "Mode": INTEGER, "Options": {"type": "array", "items": {"type": "array", "items": STRING}}}},
    },
    "EndpointSettings": {"GwPriority": INTEGER, "MacAddress": STRING, "DNSNames": {"type": "array", "items": STRING}},
}

# Method and path: query parameters that came with API 1.42 and later.
ADDED_QUERIES = {
    ("POST", "/containers/create"): {"platform": STRING}, ("POST", "/containers/{id}/stop"): {"signal": STRING}, ("POST", "/containers/{id}/restart"): {"signal": STRING},
    ("GET", "/images/json"): {"shared-size": BOOLEAN, "manifests": BOOLEAN}, ("GET", "/system/df"): {"type": STRING}, ("GET", "/images/{name}/json"): {"manifests": BOOLEAN, "platform": STRING},
    ("GET", "/images/{name}/history"): {"platform": STRING}, ("GET", "/images/{name}/get"): {"platform": STRING}, ("GET", "/images/get"): {"platform": STRING}, ("POST", "/images/{name}/push"): {"platform": STRING}, ("POST", "/images/load"): {"platform": STRING},
    ("DELETE", "/images/{name}"): {"platforms": STRING}, ("POST", "/build"): {"version": STRING}, ("POST", "/volumes/prune"): {"all": BOOLEAN},
}


class Operation:
    """One method of one path, with what it takes."""

    def __init__(self, method, path, parameters=(), body=None):
        self.method = method
        self.path = path
        self.queries = {one["name"]: one for one in parameters if one["in"] == "query"}
        self.headers = {one["name"]: one for one in parameters if one["in"] == "header"}
        self.body = body

    def __repr__(self):
        return f"{self.method} {self.path}"


class Description:
    def __init__(self):
        with open(SWAGGER) as file:
            self.document = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        for name, properties in ADDED_PROPERTIES.items():
            self.add_properties(self.document["definitions"][name], properties)
        self.operations = []
        for path, item in self.document["paths"].items():
            for method, operation in item.items():
                self.operations.append(self.operation(method.upper(), path, operation))
        self.add_routes()

    @staticmethod
    def add_properties(definition, properties):
        for part in definition.get("allOf", [definition]):
            if "properties" in part:
                part["properties"].update(properties)
                return
        definition.setdefault("properties", {}).update(properties)

    def operation(self, method, path, described):
        parameters = described.get("parameters", [])
        body = next((one["schema"] for one in parameters if one["in"] == "body"), None)
        operation = Operation(method, path, parameters, body)
        operation.queries.update(ADDED_QUERIES.get((method, path), {}))
        return operation

    def add_routes(self):
        """Every endpoint of Naru's that no version of Docker's description has, its own among them."""
        def plain(path):
            return re.sub("{[^}]*}", "{}", path)

        known = {(one.method, plain(one.path)) for one in self.operations}
        with open(ROUTES) as file:
            routes = re.findall(r'^ +\w+ (GET|HEAD|POST|PUT|DELETE) "([^"]+)",$', file.read(), re.M)
        assert len(routes) > 80, "the route table is written in another way"
        for method, path in routes:
            if (method, plain(path)) not in known:
                self.operations.append(Operation(method, path, body={"type": "object", "additionalProperties": STRING} if method in ("POST", "PUT") else None))

    def resolve(self, schema):
        """Follows references, and puts the parts of an `allOf` together."""
        while "$ref" in schema:
            schema = self.document["definitions"][schema["$ref"].rpartition("/")[2]]
        if "allOf" not in schema:
            return schema
        merged = {"type": "object", "properties": {}}
        for part in schema["allOf"]:
            part = self.resolve(part)
            merged["properties"].update(part.get("properties", {}))
            merged.update({key: value for key, value in part.items() if key not in ("properties", "type")})
        return merged
