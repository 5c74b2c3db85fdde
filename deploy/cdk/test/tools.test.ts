// What cfn-lint says of the templates, and Caddy of the Caddyfiles. .ci/run has both.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { App, Stack } from "aws-cdk-lib";
import { Template } from "aws-cdk-lib/assertions";
import * as acm from "aws-cdk-lib/aws-certificatemanager";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as ecs from "aws-cdk-lib/aws-ecs";
import * as elb from "aws-cdk-lib/aws-elasticloadbalancingv2";
import * as lambda from "aws-cdk-lib/aws-lambda";
import { LambdaDispatchRouter, addRouterEndpoints } from "../lib/index.js";
import { addFunction, addRouter, caddyfile, world } from "./world.js";

const checkout = path.join(__dirname, "../../../..");
const out = mkdtempSync(path.join(tmpdir(), "lambda-dispatch-synth-"));
const app = new App({ outdir: out });
/** Stacks with routers, which use every option between them. */
const routers: Stack[] = [];
after(() => rmSync(out, { recursive: true }));

before(() => {
  const functions = world(new Stack(app, "Functions"));
  addRouterEndpoints(functions.vpc);
  const fn = addFunction(functions, { reservedConcurrentExecutions: 80 });

  const separate = new Stack(app, "Routers");
  new LambdaDispatchRouter(separate, "Router", {
    vpc: functions.vpc,
    image: ecs.ContainerImage.fromRegistry("router"),
    function: fn,
    cluster: new ecs.Cluster(functions.stack, "Cluster", { vpc: functions.vpc }),
    capacity: "spot",
    cloudWatchMetrics: { namespace: "Shop/Test", dimensions: { stage: "{env.AWS_REGION}", team: "the shop" } },
    certificate: acm.Certificate.fromCertificateArn(
      separate,
      "Certificate",
      "arn:aws:acm:eu-central-1:123456789012:certificate/12345678-1234-1234-1234-123456789012",
    ),
    clients: [ec2.Peer.ipv4("192.0.2.0/24"), ec2.Peer.ipv6("2001:db8::/32")],
    directives: ["min_instances 1"],
  });

  const internal = world(new Stack(app, "Internal"));
  addRouter(internal, {
    function: addFunction(internal, { allowAllOutbound: true }),
    internetFacing: false,
    capacity: "mixed",
    cloudWatchMetrics: true,
  });

  const theirs = world(new Stack(app, "Theirs"));
  const group = (id: string) => ec2.SecurityGroup.fromSecurityGroupId(theirs.stack, id, `sg-${id}`, { allowAllOutbound: false });
  addRouter(theirs, {
    vpc: ec2.Vpc.fromVpcAttributes(theirs.stack, "TheirVpc", {
      vpcId: "vpc-00000001",
      availabilityZones: ["eu-central-1a", "eu-central-1b"],
      privateSubnetIds: ["subnet-00000001", "subnet-00000002"],
    }),
    function: lambda.Function.fromFunctionArn(theirs.stack, "Shop", "arn:aws:lambda:eu-central-1:123456789012:function:shop:live"),
    functionSecurityGroup: group("00000001"),
    listener: elb.ApplicationListener.fromApplicationListenerAttributes(theirs.stack, "Listener", {
      listenerArn: "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/main/0123456789abcdef/0123456789abcdef",
      securityGroup: group("00000002"),
    }),
    conditions: [elb.ListenerCondition.hostHeaders(["shop.example.com"])],
    priority: 10,
    zones: { "eu-central-1a": "euc1-az2", "eu-central-1b": "euc1-az3" },
  });

  routers.push(separate, internal.stack, theirs.stack);
  app.synth();
});

// It is installed beside the AWS CLI.
const lint = path.join(path.dirname(process.env.LAMBDA_DISPATCH_TEST_AWS ?? ""), "cfn-lint");

test("cfn-lint finds nothing", { skip: !existsSync(lint) && "NOT TESTED: LAMBDA_DISPATCH_TEST_AWS is not set, see .ci/run" }, () => {
  const templates = readdirSync(out).filter((f) => f.endsWith(".template.json"));
  assert.equal(templates.length, 4);
  // The CDK names dependencies twice (W3005).
  const found = spawnSync(lint, ["--ignore-checks", "W3005", "--", ...templates], { cwd: out, encoding: "utf8" });
  assert.equal(found.status, 0, found.stdout + found.stderr);
});

test("Caddy takes the Caddyfiles", { skip: !hasGo() && "NOT TESTED: go is not installed" }, () => {
  const caddy = path.join(out, "caddy");
  execFileSync("go", ["build", "-o", caddy, "./cmd/caddy"], { cwd: checkout });
  for (const stack of routers) {
    const text = caddyfile(Template.fromStack(stack))
      // What CloudFormation puts in.
      .replace(/\{"Fn::Select".*(?=:live)/, "shop")
      .replace(/\{"Fn::[^{}]*CidrBlock[^{}]*\}/, "10.0.0.0/16")
      .replace(/\{"Fn::[^{}]*AvailabilityZoneId[^{}]*\}/g, "euc1-az1")
      .replace(/\{"Fn::[^{}]*AvailabilityZone[^{}]*\}/g, "eu-central-1a");
    const said = spawnSync(caddy, ["validate", "--config", "-", "--adapter", "caddyfile"], {
      input: text,
      encoding: "utf8",
      env: { ...process.env, AWS_REGION: "eu-central-1", AWS_ACCESS_KEY_ID: "any", AWS_SECRET_ACCESS_KEY: "any" },
    });
    assert.equal(said.status, 0, `${stack.stackName}: ${said.stderr}\n${text}`);
    assert.match(text, /lambda_dispatch shop:live \{/);
  }
});

function hasGo(): boolean {
  return spawnSync("go", ["version"]).status === 0 && existsSync(path.join(checkout, "cmd/caddy"));
}
