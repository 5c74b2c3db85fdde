// A service that is spread over stacks. CloudFormation deploys them one after the other, so
// what each uses of others must go one way only.
import assert from "node:assert/strict";
import { test } from "node:test";
import { App, Stack } from "aws-cdk-lib";
import { Template } from "aws-cdk-lib/assertions";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as ecr from "aws-cdk-lib/aws-ecr";
import * as ecs from "aws-cdk-lib/aws-ecs";
import * as elb from "aws-cdk-lib/aws-elasticloadbalancingv2";
import * as lambda from "aws-cdk-lib/aws-lambda";
import { LambdaDispatchFunction, LambdaDispatchRouter, type LambdaDispatchFunctionProps, addRouterEndpoints } from "../lib/index.js";
import { addFunction, addRouter, caddyfile, env, only, variables, world } from "./world.js";

/** The names of the stacks that the stack waits for. */
function after(stack: Stack): string[] {
  return stack.dependencies.map((s) => s.stackName).sort();
}

/** A function in one stack with the VPC, routers in another. */
function twoStacks(fn: Partial<LambdaDispatchFunctionProps> = {}): { functions: Stack; routers: Stack } {
  const app = new App();
  const w = world(new Stack(app, "Functions", { env }));
  const routers = new Stack(app, "Routers", { env });
  new LambdaDispatchRouter(routers, "Router", {
    vpc: w.vpc,
    image: ecs.ContainerImage.fromRegistry("router"),
    function: addFunction(w, fn),
  });
  app.synth();
  return { functions: w.stack, routers };
}

test("the routers' stack uses the function's, and not the other way round", () => {
  const { functions, routers } = twoStacks();
  assert.deepEqual(after(functions), []);
  assert.deepEqual(after(routers), ["Functions"]);

  const template = Template.fromStack(routers);
  const [router] = only(
    template.findResources("AWS::EC2::SecurityGroup", { Properties: { GroupDescription: "The routers" } }),
  );
  const [, ingress] = only(template.findResources("AWS::EC2::SecurityGroupIngress", { Properties: { FromPort: 7443 } }));
  assert.deepEqual(ingress.GroupId, { "Fn::GetAtt": [router, "GroupId"] });
  assert.match(JSON.stringify(ingress.SourceSecurityGroupId), /Functions:.*AppSecurityGroup/);
  // The function's group lets nothing out by itself.
  const [, egress] = only(template.findResources("AWS::EC2::SecurityGroupEgress", { Properties: { FromPort: 7443 } }));
  assert.deepEqual(egress.GroupId, ingress.SourceSecurityGroupId);
  assert.deepEqual(egress.DestinationSecurityGroupId, ingress.GroupId);
});

test("a function that may connect to everything needs no rule for the way out", () => {
  const { routers } = twoStacks({ allowAllOutbound: true });
  const template = Template.fromStack(routers);
  only(template.findResources("AWS::EC2::SecurityGroupIngress", { Properties: { FromPort: 7443 } }));
  template.resourcePropertiesCountIs("AWS::EC2::SecurityGroupEgress", { FromPort: 7443 }, 0);
});

test("a new version changes nothing of what the routers' stack imports", () => {
  const exports = (stack: Stack) => Object.keys(Template.fromStack(stack).findOutputs("*")).sort();
  const before = twoStacks();
  const now = twoStacks({ environment: { GREETING: "hello" } });
  assert.deepEqual(exports(now.functions), exports(before.functions));
  assert.notEqual(
    variables(Template.fromStack(now.routers)).APP_VERSION,
    variables(Template.fromStack(before.routers)).APP_VERSION,
  );
});

test("a version of another stack is refused", () => {
  const app = new App();
  const w = world(new Stack(app, "Functions", { env }));
  const version = addFunction(w).function.currentVersion;
  const routers = new Stack(app, "Routers", { env });
  const image = ecs.ContainerImage.fromRegistry("router");
  assert.throws(
    () => new LambdaDispatchRouter(routers, "Router", { vpc: w.vpc, image, function: version }),
    /Routers\/Router: the version Functions\/App\/Function\/CurrentVersion .* pass an alias/,
  );
  app.node.tryRemoveChild("Routers"); // nothing is in it
  addRouter(w, { function: version });
  assert.doesNotThrow(() => app.synth());
});

test("the function's stack can use the routers' if these know the function by its name", () => {
  const app = new App();
  const w = world(new Stack(app, "Routers", { env }));
  const group = new ec2.SecurityGroup(w.stack, "Environments", { vpc: w.vpc, allowAllOutbound: false });
  addRouter(w, {
    function: lambda.Function.fromFunctionName(w.stack, "Shop", "shop"),
    functionSecurityGroup: group,
  });
  const functions = new Stack(app, "Functions", { env });
  new lambda.DockerImageFunction(functions, "Shop", {
    functionName: "shop",
    code: lambda.DockerImageCode.fromEcr(ecr.Repository.fromRepositoryName(functions, "Repository", "shop")),
    vpc: w.vpc,
    vpcSubnets: { subnetType: ec2.SubnetType.PRIVATE_ISOLATED },
    securityGroups: [group],
  });
  app.synth();
  assert.deepEqual(after(functions), ["Routers"]);
  assert.deepEqual(after(w.stack), []);
  const template = Template.fromStack(w.stack);
  only(template.findResources("AWS::EC2::SecurityGroupIngress", { Properties: { FromPort: 7443 } }));
  only(template.findResources("AWS::EC2::SecurityGroupEgress", { Properties: { FromPort: 7443 } }));
  assert.match(caddyfile(template), /lambda_dispatch shop \{/);
});

test("network, load balancer and cluster of a stack of their own", () => {
  const app = new App();
  const network = world(new Stack(app, "Network", { env }));
  addRouterEndpoints(network.vpc);
  const cluster = new ecs.Cluster(network.stack, "Cluster", { vpc: network.vpc });
  const balancer = new elb.ApplicationLoadBalancer(network.stack, "Balancer", { vpc: network.vpc, internetFacing: true });
  const listener = balancer.addListener("Http", { port: 80, defaultAction: elb.ListenerAction.fixedResponse(404) });

  const functions = new Stack(app, "Functions", { env });
  const fn = new LambdaDispatchFunction(functions, "App", {
    vpc: network.vpc,
    code: lambda.DockerImageCode.fromEcr(ecr.Repository.fromRepositoryName(functions, "Repository", "shop")),
  });
  const routers = new Stack(app, "Routers", { env });
  new LambdaDispatchRouter(routers, "Router", {
    vpc: network.vpc,
    image: ecs.ContainerImage.fromRegistry("router"),
    function: fn,
    cluster,
    capacity: "mixed",
    listener,
    conditions: [elb.ListenerCondition.hostHeaders(["shop.example.com"])],
    priority: 10,
  });
  app.synth();
  assert.deepEqual(after(network.stack), []);
  assert.deepEqual(after(functions), ["Network"]);
  assert.deepEqual(after(routers), ["Functions", "Network"]);
  Template.fromStack(routers).resourceCountIs("AWS::ElasticLoadBalancingV2::ListenerRule", 1);
  Template.fromStack(routers).hasResourceProperties("AWS::EC2::SecurityGroupIngress", { FromPort: 8080 });
  Template.fromStack(network.stack).hasResourceProperties("AWS::ECS::ClusterCapacityProviderAssociations", {
    CapacityProviders: ["FARGATE", "FARGATE_SPOT"],
  });
});
