import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { App, Duration, Stack } from "aws-cdk-lib";
import { Match, Template } from "aws-cdk-lib/assertions";
import * as acm from "aws-cdk-lib/aws-certificatemanager";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as ecr from "aws-cdk-lib/aws-ecr";
import * as ecs from "aws-cdk-lib/aws-ecs";
import * as elb from "aws-cdk-lib/aws-elasticloadbalancingv2";
import * as lambda from "aws-cdk-lib/aws-lambda";
import {
  LambdaDispatchFunction,
  LambdaDispatchRouter,
  type LambdaDispatchFunctionProps,
  type LambdaDispatchRouterProps,
  addRouterEndpoints,
  routerCaddyfile,
} from "../lib/index.js";

interface World {
  stack: Stack;
  vpc: ec2.Vpc;
  repository: ecr.IRepository;
  image: ecs.ContainerImage;
}

function world(): World {
  const stack = new Stack(new App(), "Shop", { env: { account: "123456789012", region: "eu-central-1" } });
  const vpc = new ec2.Vpc(stack, "Vpc", {
    natGateways: 0,
    subnetConfiguration: [
      { name: "Public", subnetType: ec2.SubnetType.PUBLIC },
      { name: "Private", subnetType: ec2.SubnetType.PRIVATE_ISOLATED },
    ],
  });
  const repository = ecr.Repository.fromRepositoryName(stack, "Repository", "shop");
  return { stack, vpc, repository, image: ecs.ContainerImage.fromEcrRepository(repository, "r1") };
}

function addFunction(w: World, props: Partial<LambdaDispatchFunctionProps> = {}): LambdaDispatchFunction {
  return new LambdaDispatchFunction(w.stack, "App", {
    vpc: w.vpc,
    code: lambda.DockerImageCode.fromEcr(w.repository, { tagOrDigest: "a1" }),
    ...props,
  });
}

/** The template of a function and routers for it. */
function synth(props: Partial<LambdaDispatchRouterProps> = {}, fn: Partial<LambdaDispatchFunctionProps> = {}): Template {
  const w = world();
  new LambdaDispatchRouter(w.stack, "Router", { vpc: w.vpc, image: w.image, function: addFunction(w, fn), ...props });
  return Template.fromStack(w.stack);
}

function only(found: Record<string, any>): [string, any] {
  const all = Object.entries(found);
  assert.equal(all.length, 1, `found ${all.map(([id]) => id)}`);
  return [all[0][0], all[0][1].Properties];
}

test("the function lives as long as Lambda allows, in the VPC, on arm64", () => {
  synth({}, { reservedConcurrentExecutions: 100 }).hasResourceProperties("AWS::Lambda::Function", {
    Timeout: 900,
    Architectures: ["arm64"],
    MemorySize: 1769,
    PackageType: "Image",
    ReservedConcurrentExecutions: 100,
    VpcConfig: Match.objectLike({ SubnetIds: Match.anyValue() }),
  });
});

test("only the function reaches the callback port, and reaches nothing else", () => {
  const template = synth();
  const groups = template.findResources("AWS::EC2::SecurityGroup");
  const id = (description: string) =>
    Object.keys(groups).find((g) => groups[g].Properties.GroupDescription === description)!;
  const router = id("The routers");
  const fn = id("Environments of the function, nobody connects to them");

  const [, callbacks] = only(
    template.findResources("AWS::EC2::SecurityGroupIngress", { Properties: { FromPort: 7443 } }),
  );
  assert.equal(callbacks.ToPort, 7443);
  assert.deepEqual(callbacks.GroupId, { "Fn::GetAtt": [router, "GroupId"] });
  assert.deepEqual(callbacks.SourceSecurityGroupId, { "Fn::GetAtt": [fn, "GroupId"] });

  const [, site] = only(template.findResources("AWS::EC2::SecurityGroupIngress", { Properties: { FromPort: 8080 } }));
  assert.deepEqual(site.GroupId, { "Fn::GetAtt": [router, "GroupId"] });
  assert.notDeepEqual(site.SourceSecurityGroupId, { "Fn::GetAtt": [fn, "GroupId"] });
  assert.equal(groups[router].Properties.SecurityGroupIngress, undefined);

  // EC2 lets everything out of a group that is made without a rule.
  for (const [group, properties] of Object.entries(groups)) {
    assert.equal(properties.Properties.SecurityGroupEgress?.length, 1, group);
  }
  assert.equal(groups[fn].Properties.SecurityGroupEgress[0].CidrIp, "127.0.0.1/32");
  const [, out] = only(
    template.findResources("AWS::EC2::SecurityGroupEgress", {
      Properties: { GroupId: { "Fn::GetAtt": [fn, "GroupId"] } },
    }),
  );
  assert.equal(`${out.FromPort}-${out.ToPort}`, "7443-7443");
  assert.deepEqual(out.DestinationSecurityGroupId, { "Fn::GetAtt": [router, "GroupId"] });
});

test("the router may invoke its function, and nothing else", () => {
  const template = synth();
  const [alias] = only(template.findResources("AWS::Lambda::Alias"));
  const [, task] = only(template.findResources("AWS::ECS::TaskDefinition"));
  const role = task.TaskRoleArn["Fn::GetAtt"][0];
  const [, policy] = only(template.findResources("AWS::IAM::Policy", { Properties: { Roles: [{ Ref: role }] } }));
  assert.deepEqual(policy.PolicyDocument.Statement, [
    { Action: "lambda:InvokeFunction", Effect: "Allow", Resource: { Ref: alias } },
  ]);
  assert.equal(template.findResources("AWS::IAM::Role")[role].Properties.ManagedPolicyArns, undefined);
});

test("the task is on arm64, read-only, and has all the time to stop that there is", () => {
  const template = synth();
  template.hasResourceProperties("AWS::ECS::TaskDefinition", {
    RuntimePlatform: { CpuArchitecture: "ARM64", OperatingSystemFamily: "LINUX" },
    ContainerDefinitions: [
      Match.objectLike({
        StopTimeout: 120,
        ReadonlyRootFilesystem: true,
        PortMappings: [Match.objectLike({ ContainerPort: 8080 }), Match.objectLike({ ContainerPort: 7443 })],
      }),
    ],
  });
  template.hasResourceProperties("AWS::ECS::Service", {
    DesiredCount: Match.absent(), // an update would undo what scaling has done
    DeploymentConfiguration: Match.objectLike({ MinimumHealthyPercent: 100, MaximumPercent: 200 }),
    CapacityProviderStrategy: [{ CapacityProvider: "FARGATE", Weight: 1 }],
  });
  template.hasResourceProperties("AWS::ApplicationAutoScaling::ScalableTarget", { MinCapacity: 2, MaxCapacity: 4 });
});

test("a new version of the app replaces the routers", () => {
  const template = synth();
  const [, task] = only(template.findResources("AWS::ECS::TaskDefinition"));
  const [version] = only(template.findResources("AWS::Lambda::Version"));
  assert.match(JSON.stringify(task.ContainerDefinitions[0].Environment), new RegExp(`"APP_VERSION".*${version}`));
});

test("the target group notices a router that stops before it refuses anything", () => {
  const template = synth();
  const [, group] = only(template.findResources("AWS::ElasticLoadBalancingV2::TargetGroup"));
  const [, task] = only(template.findResources("AWS::ECS::TaskDefinition"));
  const caddyfile = JSON.stringify(task.ContainerDefinitions[0].Environment);
  const number = (option: string) => Number(new RegExp(`${option} (\\d+)s`).exec(caddyfile)![1]);
  const noticed =
    group.HealthCheckIntervalSeconds * group.UnhealthyThresholdCount + group.HealthCheckTimeoutSeconds;
  assert.ok(noticed <= number("shutdown_delay"));
  assert.ok(number("shutdown_delay") + number("grace_period") + 6 <= 120);
  const attributes = Object.fromEntries(group.TargetGroupAttributes.map((a: any) => [a.Key, a.Value]));
  assert.equal(attributes["load_balancing.algorithm.type"], "least_outstanding_requests");
  assert.ok(Number(attributes["deregistration_delay.timeout_seconds"]) < 120);
});

test("without a certificate the site is HTTP, with one HTTP is redirected", () => {
  const [, http] = only(synth().findResources("AWS::ElasticLoadBalancingV2::Listener"));
  assert.equal(http.Port, 80);
  assert.equal(http.DefaultActions[0].Type, "forward");

  const w = world();
  new LambdaDispatchRouter(w.stack, "Router", {
    vpc: w.vpc,
    image: w.image,
    function: addFunction(w),
    certificate: acm.Certificate.fromCertificateArn(w.stack, "Certificate", "arn:aws:acm:eu-central-1:1:certificate/x"),
  });
  const template = Template.fromStack(w.stack);
  template.resourceCountIs("AWS::ElasticLoadBalancingV2::Listener", 2);
  template.hasResourceProperties("AWS::ElasticLoadBalancingV2::Listener", {
    Port: 80,
    DefaultActions: [Match.objectLike({ Type: "redirect", RedirectConfig: Match.objectLike({ Protocol: "HTTPS" }) })],
  });
  template.hasResourceProperties("AWS::ElasticLoadBalancingV2::Listener", {
    Port: 443,
    DefaultActions: [Match.objectLike({ Type: "forward" })],
  });
  template.hasResourceProperties("AWS::ElasticLoadBalancingV2::LoadBalancer", {
    LoadBalancerAttributes: Match.arrayWith([{ Key: "idle_timeout.timeout_seconds", Value: "120" }]),
  });
});

test("Spot", () => {
  synth({ capacity: "mixed" }).hasResourceProperties("AWS::ECS::Service", {
    CapacityProviderStrategy: [
      { CapacityProvider: "FARGATE", Base: 1, Weight: 0 },
      { CapacityProvider: "FARGATE_SPOT", Weight: 1 },
    ],
  });
  synth({ capacity: "spot" }).hasResourceProperties("AWS::ECS::Service", {
    CapacityProviderStrategy: [{ CapacityProvider: "FARGATE_SPOT", Weight: 1 }],
  });
  synth().hasResourceProperties("AWS::ECS::ClusterCapacityProviderAssociations", {
    CapacityProviders: ["FARGATE", "FARGATE_SPOT"],
  });
});

test("a VPC, a load balancer and a function that are there already", () => {
  const w = world();
  const vpc = ec2.Vpc.fromVpcAttributes(w.stack, "Theirs", {
    vpcId: "vpc-1",
    availabilityZones: ["eu-central-1a", "eu-central-1b"],
    privateSubnetIds: ["subnet-1", "subnet-2"],
  });
  const fn = lambda.Function.fromFunctionAttributes(w.stack, "Fn", {
    functionArn: "arn:aws:lambda:eu-central-1:123456789012:function:shop",
    securityGroup: ec2.SecurityGroup.fromSecurityGroupId(w.stack, "FnGroup", "sg-2"),
  });
  const listener = elb.ApplicationListener.fromApplicationListenerAttributes(w.stack, "Listener", {
    listenerArn: "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/a/1/2",
    securityGroup: ec2.SecurityGroup.fromSecurityGroupId(w.stack, "BalancerGroup", "sg-1"),
  });
  new LambdaDispatchRouter(w.stack, "Router", {
    vpc,
    image: w.image,
    function: fn,
    listener,
    priority: 10,
    conditions: [elb.ListenerCondition.hostHeaders(["shop.example.com"])],
  });
  const template = Template.fromStack(w.stack);
  template.resourceCountIs("AWS::ElasticLoadBalancingV2::LoadBalancer", 0);
  template.resourceCountIs("AWS::ElasticLoadBalancingV2::ListenerRule", 1);
  template.hasResourceProperties("AWS::EC2::SecurityGroupIngress", { FromPort: 7443, SourceSecurityGroupId: "sg-2" });
  template.hasResourceProperties("AWS::IAM::Policy", {
    PolicyDocument: Match.objectLike({
      Statement: [
        {
          Action: "lambda:InvokeFunction",
          Effect: "Allow",
          Resource: "arn:aws:lambda:eu-central-1:123456789012:function:shop",
        },
      ],
    }),
  });
  const [, task] = only(template.findResources("AWS::ECS::TaskDefinition"));
  assert.match(task.ContainerDefinitions[0].Environment[0].Value, /lambda_dispatch shop \{/);
});

test("numbers that do not fit together are refused", () => {
  assert.throws(
    () => synth({ maxInstances: 20, maxRouters: 4 }, { reservedConcurrentExecutions: 159 }),
    /is 160, more than the function's reservedConcurrentExecutions of 159/,
  );
  assert.doesNotThrow(() => synth({ maxInstances: 20, maxRouters: 4 }, { reservedConcurrentExecutions: 160 }));
  assert.throws(() => synth({ queueTimeout: Duration.minutes(2) }), /queueTimeout/);
  assert.throws(() => synth({ balancerIdleTimeout: Duration.minutes(5) }), /balancerIdleTimeout/);
  assert.throws(() => synth({ capacity: "spot", deregistrationDelay: Duration.minutes(2) }), /deregistrationDelay/);
  assert.doesNotThrow(() => synth({ deregistrationDelay: Duration.minutes(15) }));
});

test("routers without a way to the internet get endpoints", () => {
  const w = world();
  addRouterEndpoints(w.vpc);
  Template.fromStack(w.stack).resourceCountIs("AWS::EC2::VPCEndpoint", 5);
});

// tests/deploy runs a router with that Caddyfile.
test("the Caddyfile is that of the CloudFormation template", () => {
  const template = readFileSync(path.join(__dirname, "../../../cloudformation/existing.yaml"), "utf8");
  const block = /Value: !Sub \|\n((?: {16}.*\n)+)/.exec(template)![1].replace(/^ {16}/gm, "");
  const want = block
    .replace("${Function}", "shop")
    .replace("${MaxConcurrent}", "10")
    .replace("${MaxInstances}", "7");
  const got = routerCaddyfile({
    functionName: "shop",
    maxConcurrent: 10,
    maxInstances: 7,
    queueTimeout: Duration.minutes(1),
    shutdownDelay: Duration.seconds(20),
    gracePeriod: Duration.seconds(90),
    idleTimeout: Duration.minutes(5),
    directives: [],
  });
  const minutes = (text: string) => text.replace("idle 300s", "idle 5m").replace("queue_timeout 60s", "queue_timeout 1m");
  assert.equal(minutes(got), want);
});

test("more subdirectives", () => {
  const [, task] = only(synth({ directives: ["min_instances 2", "idle_timeout 5m"] }).findResources("AWS::ECS::TaskDefinition"));
  assert.match(JSON.stringify(task.ContainerDefinitions[0].Environment), /min_instances 2\\n\\t\\t\\tidle_timeout 5m\\n/);
});
