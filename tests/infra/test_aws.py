"""The CloudFormation template: linted, created in moto, and what its policies allow."""

import json
from pathlib import Path

import boto3
import pytest
import yaml
from cfnlint.api import lint
from cfnlint.decode import decode_str
from moto import mock_aws

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "infra/aws/uniner.yaml").read_text()
TEMPLATE, _ = decode_str(TEXT)
NAME = yaml.safe_load((ROOT / "cluster.yaml").read_text())["cluster_name"]
BUCKET = "arn:aws:s3:::corpora"


@pytest.fixture(scope="module")
def policies():
    """The statements of the head's and the nodes' policy in an account where the stack was created."""
    with mock_aws():
        stacks = boto3.client("cloudformation", "us-west-2")
        stacks.create_stack(
            StackName="uniner",
            TemplateBody=TEXT,
            Parameters=[{"ParameterKey": "BucketName", "ParameterValue": "corpora"}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        (stack,) = stacks.describe_stacks(StackName="uniner")["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        assert outputs["Repository"].endswith(".dkr.ecr.us-west-2.amazonaws.com/uniner")
        boto3.client("s3", "us-west-2").head_bucket(Bucket=outputs["Bucket"])
        iam = boto3.client("iam")
        for name in ("uniner-head", "uniner-node"):
            profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
            assert [role["RoleName"] for role in profile["Roles"]] == [name]
        documents = {
            policy["PolicyName"]: iam.get_policy_version(PolicyArn=policy["Arn"], VersionId="v1")
            for policy in iam.list_policies(Scope="Local")["Policies"]
        }
        assert outputs["NodePolicy"].endswith(":policy/uniner-node")
        return {
            name: documents[f"uniner-{name}"]["PolicyVersion"]["Document"]["Statement"]
            for name in ("head", "node")
        }


def test_the_template_passes_the_linter():
    assert [str(match) for match in lint(TEXT)] == []


def test_the_bucket_is_kept_private_and_without_unfinished_uploads():
    bucket = TEMPLATE["Resources"]["Bucket"]
    assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"
    assert set(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}
    (rule,) = bucket["Properties"]["LifecycleConfiguration"]["Rules"]
    assert rule["Status"] == "Enabled" and rule["AbortIncompleteMultipartUpload"]
    assert not set(rule) & {"ExpirationInDays", "Prefix", "Transitions"}  # no run is ever deleted


def test_both_roles_have_the_nodes_policy_and_may_pull_the_image():
    for role in ("HeadRole", "NodeRole"):
        attached = json.dumps(TEMPLATE["Resources"][role]["Properties"]["ManagedPolicyArns"])
        assert "NodePolicy" in attached and "AmazonEC2ContainerRegistryReadOnly" in attached
        assert ("HeadPolicy" in attached) is (role == "HeadRole")


def test_the_names_are_those_of_cluster_yaml():
    profiles = {
        resource["Properties"]["InstanceProfileName"]
        for resource in TEMPLATE["Resources"].values()
        if resource["Type"] == "AWS::IAM::InstanceProfile"
    }
    for node_type in yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"].values():
        assert node_type["node_config"]["IamInstanceProfile"]["Arn"].split("/")[-1] in profiles
    assert TEMPLATE["Parameters"]["ClusterName"]["Default"] == NAME


def test_no_policy_has_a_wildcard_action(policies):
    for statement in policies["head"] + policies["node"]:
        assert "*" not in json.dumps(statement["Action"])
        assert statement["Effect"] == "Allow"


def allows(statements, action, resource, context):
    """Tell, as AWS does for these simple policies, whether an action is allowed."""

    def covers(pattern):
        return pattern in ("*", resource) or (pattern.endswith("*") and resource.startswith(pattern[:-1]))

    return any(
        action in [statement["Action"], *statement["Action"]]
        and any(
            map(
                covers,
                [statement["Resource"]] if isinstance(statement["Resource"], str) else statement["Resource"],
            )
        )
        and all(
            context.get(key) == value
            for key, value in statement.get("Condition", {}).get("StringEquals", {}).items()
        )
        for statement in statements
    )


TAG = {"aws:RequestTag/ray-cluster-name": NAME}
LAUNCH, OWN = {"ec2:CreateAction": "RunInstances"}, {"ec2:ResourceTag/ray-cluster-name": NAME}


@pytest.mark.parametrize(
    ("action", "context", "allowed"),
    [
        ("ec2:RunInstances", {}, True),
        ("ec2:CreateTags", {**LAUNCH, **TAG}, True),
        ("ec2:CreateTags", {**OWN, "aws:RequestTag/ray-node-status": "up-to-date"}, True),
        ("ec2:TerminateInstances", OWN, True),
        # Another instance of the account: it cannot be made the cluster's, so it cannot be ended.
        ("ec2:CreateTags", TAG, False),
        ("ec2:CreateTags", {"aws:RequestTag/Name": "x", "ec2:ResourceTag/ray-cluster-name": "other"}, False),
        ("ec2:CreateTags", {**LAUNCH, "aws:RequestTag/ray-cluster-name": "other"}, False),
        (
            "ec2:CreateTags",
            {"ec2:CreateAction": "CreateVolume", "aws:RequestTag/ray-cluster-name": NAME},
            False,
        ),
        ("ec2:TerminateInstances", {}, False),
        ("ec2:TerminateInstances", {"ec2:ResourceTag/ray-cluster-name": "other"}, False),
    ],
)
def test_the_head_tags_and_ends_only_the_clusters_instances(policies, action, context, allowed):
    instance = "arn:aws:ec2:*:123456789012:instance/i-1"
    assert allows(policies["head"], action, instance, context) is allowed
    assert all(
        set(statement.get("Condition", {"StringEquals": {}})) == {"StringEquals"}
        for statement in policies["head"]
    )


@pytest.mark.parametrize(
    ("action", "resource", "allowed"),
    [
        ("s3:ListBucket", BUCKET, True),
        ("s3:GetObject", f"{BUCKET}/pile/00.jsonl.zst", True),
        ("s3:PutObject", f"{BUCKET}/uniner/run/tag/chunk-a.parquet", True),
        ("s3:DeleteObject", f"{BUCKET}/uniner/run/train/checkpoints/a", True),
        ("ssm:GetParametersByPath", "arn:aws:ssm:*:123456789012:parameter/uniner", True),
        # The corpus and other buckets, keys and machines are not a run's to change.
        ("s3:PutObject", f"{BUCKET}/pile/00.jsonl.zst", False),
        ("s3:DeleteObject", f"{BUCKET}/pile/00.jsonl.zst", False),
        ("s3:GetObject", "arn:aws:s3:::other/x", False),
        ("ssm:GetParametersByPath", "arn:aws:ssm:*:123456789012:parameter/other", False),
        ("ec2:RunInstances", "*", False),
        ("iam:PassRole", "arn:aws:iam::123456789012:role/uniner-node", False),
    ],
)
def test_a_node_writes_its_runs_and_reads_its_keys_alone(policies, action, resource, allowed):
    assert allows(policies["node"], action, resource, {}) is allowed


def test_the_head_gives_no_role_but_the_nodes(policies):
    """To a machine: whoever submits a job to the head gets no more rights by it."""
    node, context = "arn:aws:iam::123456789012:role/uniner-node", {"iam:PassedToService": "ec2.amazonaws.com"}
    assert allows(policies["head"], "iam:PassRole", node, context)
    assert not allows(policies["head"], "iam:PassRole", node, {})
    assert not allows(policies["head"], "iam:PassRole", "arn:aws:iam::123456789012:role/admin", context)
