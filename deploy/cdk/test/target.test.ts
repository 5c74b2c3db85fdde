// What routers can invoke.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Match, Template } from "aws-cdk-lib/assertions";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as lambda from "aws-cdk-lib/aws-lambda";
import { type World, addRouter, caddyfile, only, variables, world } from "./world.js";

const ARN = "arn:aws:lambda:eu-central-1:123456789012:function:shop";

/** A function that is not a LambdaDispatchFunction. */
function plain(w: World, props: Partial<lambda.DockerImageFunctionProps> = { vpc: w.vpc }): lambda.DockerImageFunction {
  return new lambda.DockerImageFunction(w.stack, "Plain", {
    code: lambda.DockerImageCode.fromEcr(w.repository),
    vpcSubnets: props.vpc && { subnetType: ec2.SubnetType.PRIVATE_ISOLATED },
    ...props,
  });
}

function theirGroup(w: World): ec2.ISecurityGroup {
  return ec2.SecurityGroup.fromSecurityGroupId(w.stack, "TheirGroup", "sg-00000003");
}

/** Who may connect to the routers' callback port. */
function callers(template: Template): unknown {
  const [, rule] = only(template.findResources("AWS::EC2::SecurityGroupIngress", { Properties: { FromPort: 7443 } }));
  return rule.SourceSecurityGroupId;
}

/** What the routers may invoke. */
function invoked(template: Template): unknown {
  const policies = template.findResources("AWS::IAM::Policy", {
    Properties: { PolicyDocument: { Statement: [Match.objectLike({ Action: "lambda:InvokeFunction" })] } },
  });
  return only(policies)[1].PolicyDocument.Statement[0].Resource;
}

test("an alias of a function in the VPC", () => {
  const w = world();
  const fn = plain(w, { vpc: w.vpc, reservedConcurrentExecutions: 80 });
  addRouter(w, { function: fn.addAlias("live") });
  const template = Template.fromStack(w.stack);
  assert.match(JSON.stringify(callers(template)), /PlainSecurityGroup/);
  const [alias] = only(template.findResources("AWS::Lambda::Alias"));
  assert.deepEqual(invoked(template), { Ref: alias });
  // Its version is known, so that a new one replaces the routers.
  const [version] = only(template.findResources("AWS::Lambda::Version"));
  assert.equal(variables(template).APP_VERSION, version);
});

test("what is reserved for a function is known through its alias", () => {
  const w = world();
  const fn = plain(w, { vpc: w.vpc, reservedConcurrentExecutions: 79 });
  assert.throws(() => addRouter(w, { function: fn.addAlias("live") }), /is 80, more than .* of 79/);
});

test("a function in the VPC as it is", () => {
  const w = world();
  addRouter(w, { function: plain(w) });
  const template = Template.fromStack(w.stack);
  assert.match(JSON.stringify(callers(template)), /PlainSecurityGroup/);
  assert.equal(variables(template).APP_VERSION, undefined);
  template.resourceCountIs("AWS::Lambda::Version", 0);
});

test("imported with its security group", () => {
  const w = world();
  const fn = lambda.Function.fromFunctionAttributes(w.stack, "Fn", { functionArn: ARN, securityGroup: theirGroup(w) });
  addRouter(w, { function: fn });
  const template = Template.fromStack(w.stack);
  assert.equal(callers(template), "sg-00000003");
  assert.equal(invoked(template), ARN);
});

test("imported without, and the security group given", () => {
  const w = world();
  const fn = lambda.Function.fromFunctionArn(w.stack, "Fn", `${ARN}:live`);
  addRouter(w, { function: fn, functionSecurityGroup: theirGroup(w) });
  const template = Template.fromStack(w.stack);
  assert.equal(callers(template), "sg-00000003");
  assert.equal(invoked(template), `${ARN}:live`);
  // What the policy allows is what the router invokes.
  assert.match(caddyfile(template), /lambda_dispatch shop:live \{/);
});

test("an imported alias", () => {
  const w = world();
  const fn = lambda.Function.fromFunctionAttributes(w.stack, "Fn", { functionArn: ARN, securityGroup: theirGroup(w) });
  const alias = lambda.Alias.fromAliasAttributes(w.stack, "Live", {
    aliasName: "live",
    aliasVersion: lambda.Version.fromVersionAttributes(w.stack, "V1", { lambda: fn, version: "1" }),
  });
  addRouter(w, { function: alias });
  const template = Template.fromStack(w.stack);
  assert.equal(callers(template), "sg-00000003");
  assert.equal(invoked(template), `${ARN}:live`);
  assert.match(caddyfile(template), /lambda_dispatch shop:live \{/);
});

test("without a security group it says what to pass", () => {
  const w = world();
  const imported = lambda.Function.fromFunctionArn(w.stack, "Fn", ARN);
  assert.throws(() => addRouter(w, { function: imported }), /Shop\/Router: Shop\/Fn has no security group.*pass functionSecurityGroup/);
  const outside = plain(world(), {});
  assert.throws(() => addRouter(world(), { function: outside }), /Shop\/Plain has no security group.*Give the function the routers' VPC/);
});
