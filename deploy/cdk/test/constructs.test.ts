import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { CfnParameter, Duration } from "aws-cdk-lib";
import { Annotations, Match, Template } from "aws-cdk-lib/assertions";
import * as acm from "aws-cdk-lib/aws-certificatemanager";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as ecs from "aws-cdk-lib/aws-ecs";
import * as elb from "aws-cdk-lib/aws-elasticloadbalancingv2";
import * as lambda from "aws-cdk-lib/aws-lambda";
import {
  LambdaDispatchRouter,
  type LambdaDispatchFunctionProps,
  type LambdaDispatchRouterProps,
  addRouterEndpoints,
  routerCaddyfile,
} from "../lib/index.js";
import { rangesOf, zonesOf } from "../lib/network.js";
import { addFunction, addRouter, caddyfile, only, synth, variables, world } from "./world.js";

const CERTIFICATE = "arn:aws:acm:eu-central-1:123456789012:certificate/12345678-1234-1234-1234-123456789012";

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
    ForceNewDeployment: { EnableForceNewDeployment: true, ForceNewDeploymentNonce: "on-demand" },
  });
  template.hasResourceProperties("AWS::ApplicationAutoScaling::ScalableTarget", { MinCapacity: 2, MaxCapacity: 4 });
});

test("a new version of the app replaces the routers, and only that", () => {
  const version = (fn: Partial<LambdaDispatchFunctionProps>) => variables(synth({}, fn)).APP_VERSION;
  const before = version({});
  assert.equal(typeof before, "string"); // it refers to nothing
  assert.equal(version({}), before);
  assert.notEqual(version({ environment: { GREETING: "hello" } }), before);

  // The routers come after the version, because they come after its alias.
  const template = synth();
  const [alias] = only(template.findResources("AWS::Lambda::Alias"));
  assert.match(caddyfile(template), new RegExp(`"Ref":"${alias}"`));
});

test("the target group notices a router that stops before it refuses anything", () => {
  const template = synth();
  const [, group] = only(template.findResources("AWS::ElasticLoadBalancingV2::TargetGroup"));
  const text = caddyfile(template);
  const number = (option: string) => Number(new RegExp(`${option} (\\d+)s`).exec(text)![1]);
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
  addRouter(w, {
    function: addFunction(w),
    certificate: acm.Certificate.fromCertificateArn(w.stack, "Certificate", CERTIFICATE),
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
    ForceNewDeployment: { EnableForceNewDeployment: true, ForceNewDeploymentNonce: "mixed" },
  });
  synth({ capacity: "spot" }).hasResourceProperties("AWS::ECS::Service", {
    CapacityProviderStrategy: [{ CapacityProvider: "FARGATE_SPOT", Weight: 1 }],
    ForceNewDeployment: { EnableForceNewDeployment: true, ForceNewDeploymentNonce: "spot" },
  });
  synth().hasResourceProperties("AWS::ECS::ClusterCapacityProviderAssociations", {
    CapacityProviders: ["FARGATE", "FARGATE_SPOT"],
  });
});

test("a cluster of the app gets the capacity providers, before the service", () => {
  const w = world();
  const cluster = new ecs.Cluster(w.stack, "Cluster", { vpc: w.vpc });
  addRouter(w, { function: addFunction(w), cluster, capacity: "spot" });
  const template = Template.fromStack(w.stack);
  const [providers, { CapacityProviders }] = only(
    template.findResources("AWS::ECS::ClusterCapacityProviderAssociations"),
  );
  assert.deepEqual(CapacityProviders, ["FARGATE", "FARGATE_SPOT"]);
  template.resourceCountIs("AWS::ECS::Cluster", 1);
  const [service] = Object.values(template.findResources("AWS::ECS::Service"));
  assert.ok(service.DependsOn.includes(providers), service.DependsOn);
});

test("an imported cluster is taken as it is, with a warning for Spot", () => {
  const routers = (capacity?: "on-demand" | "mixed") => {
    const w = world();
    const cluster = ecs.Cluster.fromClusterAttributes(w.stack, "Theirs", { clusterName: "theirs", vpc: w.vpc });
    addRouter(w, { function: addFunction(w), cluster, capacity });
    const warnings = Annotations.fromStack(w.stack).findWarning("*", Match.stringLikeRegexp("imported cluster must have FARGATE"));
    return { template: Template.fromStack(w.stack), warnings: warnings.length };
  };
  const spot = routers("mixed");
  assert.equal(spot.warnings, 1);
  spot.template.hasResourceProperties("AWS::ECS::Service", { CapacityProviderStrategy: Match.anyValue() });
  const onDemand = routers();
  assert.equal(onDemand.warnings, 0);
  onDemand.template.hasResourceProperties("AWS::ECS::Service", {
    LaunchType: "FARGATE",
    CapacityProviderStrategy: Match.absent(),
  });
});

test("a VPC, a load balancer and a function that are there already", () => {
  const w = world();
  const vpc = ec2.Vpc.fromVpcAttributes(w.stack, "Theirs", {
    vpcId: "vpc-00000001",
    availabilityZones: ["eu-central-1a", "eu-central-1b"],
    privateSubnetIds: ["subnet-00000001", "subnet-00000002"],
  });
  const fn = lambda.Function.fromFunctionAttributes(w.stack, "Fn", {
    functionArn: "arn:aws:lambda:eu-central-1:123456789012:function:shop",
    securityGroup: ec2.SecurityGroup.fromSecurityGroupId(w.stack, "FnGroup", "sg-00000002"),
  });
  const listener = elb.ApplicationListener.fromApplicationListenerAttributes(w.stack, "Listener", {
    listenerArn: "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/a/1/2",
    securityGroup: ec2.SecurityGroup.fromSecurityGroupId(w.stack, "BalancerGroup", "sg-00000001"),
  });
  addRouter(w, {
    vpc,
    function: fn,
    listener,
    priority: 10,
    conditions: [elb.ListenerCondition.hostHeaders(["shop.example.com"])],
  });
  const template = Template.fromStack(w.stack);
  template.resourceCountIs("AWS::ElasticLoadBalancingV2::LoadBalancer", 0);
  template.resourceCountIs("AWS::ElasticLoadBalancingV2::ListenerRule", 1);
  template.hasResourceProperties("AWS::EC2::SecurityGroupIngress", { FromPort: 7443, SourceSecurityGroupId: "sg-00000002" });
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
  assert.match(caddyfile(template), /lambda_dispatch shop \{/);
});

test("numbers that do not fit together are refused", () => {
  assert.throws(
    () => synth({ maxInstances: 20, maxRouters: 4 }, { reservedConcurrentExecutions: 159 }),
    /is 160, more than the function's reservedConcurrentExecutions of 159/,
  );
  assert.doesNotThrow(() => synth({ maxInstances: 20, maxRouters: 4 }, { reservedConcurrentExecutions: 160 }));
  assert.throws(() => synth({ queueTimeout: Duration.minutes(2) }), /queueTimeout/);
  // Caddy does not take 0s.
  assert.throws(() => synth({ queueTimeout: Duration.seconds(0) }), /queueTimeout/);
  assert.throws(() => synth({ balancerIdleTimeout: Duration.minutes(5) }), /balancerIdleTimeout/);
  assert.throws(() => synth({ capacity: "spot", deregistrationDelay: Duration.minutes(2) }), /deregistrationDelay/);
  assert.doesNotThrow(() => synth({ deregistrationDelay: Duration.minutes(15) }));
  assert.throws(() => synth({ deregistrationDelay: Duration.minutes(61) }), /deregistrationDelay 3660 s/);

  assert.throws(() => synth({ minRouters: 5 }), /minRouters 5 is more than maxRouters 4/);
  assert.throws(() => synth({ maxRouters: 1 }), /minRouters 2 is more than maxRouters 1/);
  for (const wrong of [{ minRouters: 0 }, { maxRouters: 1.5 }, { maxInstances: -1 }, { maxConcurrent: NaN }]) {
    assert.throws(() => synth(wrong), new RegExp(`${Object.keys(wrong)[0]} must be a whole number`));
  }
  const w = world();
  const parameter = new CfnParameter(w.stack, "MaxInstances", { type: "Number" });
  assert.throws(() => addRouter(w, { function: addFunction(w), maxInstances: parameter.valueAsNumber }), /known when the app/);
  // service.yaml has this as the rule TrialIsOneRouter.
  assert.throws(() => synth({ minRouters: 1, capacity: "spot" }), /only router would end with each Spot interruption/);
  assert.doesNotThrow(() => synth({ minRouters: 1, capacity: "mixed" }));
});

test("a reservation that is known only later is not compared", () => {
  const w = world();
  const parameter = new CfnParameter(w.stack, "Reserved", { type: "Number" });
  addRouter(w, { function: addFunction(w, { reservedConcurrentExecutions: parameter.valueAsNumber }) });
  Template.fromStack(w.stack).hasResourceProperties("AWS::Lambda::Function", {
    ReservedConcurrentExecutions: { Ref: "Reserved" },
  });
});

test("options that do not go together are refused", () => {
  const w = world();
  const fn = addFunction(w);
  const listener = elb.ApplicationListener.fromApplicationListenerAttributes(w.stack, "Listener", {
    listenerArn: "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/a/1/2",
    securityGroup: ec2.SecurityGroup.fromSecurityGroupId(w.stack, "BalancerGroup", "sg-00000001"),
  });
  const conditions = [elb.ListenerCondition.pathPatterns(["/shop"])];
  const certificate = acm.Certificate.fromCertificateArn(w.stack, "Certificate", CERTIFICATE);
  const other = new ec2.Vpc(w.stack, "Other");
  const cluster = new ecs.Cluster(w.stack, "Cluster", { vpc: other });
  const cases: [Partial<LambdaDispatchRouterProps>, RegExp][] = [
    [{ listener, conditions, priority: 1, certificate }, /leave certificate, clients and internetFacing out/],
    [{ listener, conditions, priority: 1, clients: [] }, /leave certificate, clients and internetFacing out/],
    [{ listener, conditions, priority: 1, internetFacing: false }, /leave certificate, clients and internetFacing out/],
    [{ listener, conditions }, /both conditions and a priority/],
    [{ listener, priority: 1 }, /both conditions and a priority/],
    [{ conditions, priority: 1 }, /there is none/],
    [{ cluster }, /the cluster Shop\/Cluster is of another VPC than Shop\/Vpc/],
  ];
  cases.forEach(([props, error], i) => {
    assert.throws(() => new LambdaDispatchRouter(w.stack, `Router${i}`, { vpc: w.vpc, image: w.image, function: fn, ...props }), error);
  });
});

test("the load balancer can be internal, and for some clients only", () => {
  const balancer = (props: Partial<LambdaDispatchRouterProps>) => {
    const template = synth(props);
    const [, { Scheme }] = only(template.findResources("AWS::ElasticLoadBalancingV2::LoadBalancer"));
    const [, group] = only(
      template.findResources("AWS::EC2::SecurityGroup", { Properties: { GroupDescription: "The load balancer" } }),
    );
    return { Scheme, from: group.SecurityGroupIngress.map((r: any) => `${r.CidrIp}:${r.FromPort}`) };
  };
  assert.deepEqual(balancer({}), { Scheme: "internet-facing", from: ["0.0.0.0/0:80"] });
  assert.deepEqual(balancer({ internetFacing: false, clients: [ec2.Peer.ipv4("10.0.0.0/8")] }), {
    Scheme: "internal",
    from: ["10.0.0.0/8:80"],
  });

  const w = world();
  addRouter(w, {
    function: addFunction(w),
    clients: [ec2.Peer.ipv4("192.0.2.0/24")],
    certificate: acm.Certificate.fromCertificateArn(w.stack, "Certificate", CERTIFICATE),
  });
  const [, group] = only(
    Template.fromStack(w.stack).findResources("AWS::EC2::SecurityGroup", {
      Properties: { GroupDescription: "The load balancer" },
    }),
  );
  assert.deepEqual(
    group.SecurityGroupIngress.map((r: any) => `${r.CidrIp}:${r.FromPort}`),
    ["192.0.2.0/24:80", "192.0.2.0/24:443"],
  );
});

test("the app may write its log, and has nothing else of the function's permissions", () => {
  const template = synth();
  const [fnId, fn] = only(template.findResources("AWS::Lambda::Function"));
  const role = fn.Role["Fn::GetAtt"][0];
  const { ManagedPolicyArns, Policies } = template.findResources("AWS::IAM::Role")[role].Properties;
  assert.equal(ManagedPolicyArns, undefined);
  const [network, denied] = Policies[0].PolicyDocument.Statement;
  assert.equal(denied.Effect, "Deny");
  assert.deepEqual(denied.Action, network.Action);
  assert.match(JSON.stringify(denied.Condition.ArnLike["lambda:SourceFunctionArn"]), /:lambda:eu-central-1:123456789012:function:\*"/);

  const [, others] = only(template.findResources("AWS::IAM::Policy", { Properties: { Roles: [{ Ref: role }] } }));
  assert.deepEqual(
    others.PolicyDocument.Statement.map((s: any) => [s.Effect, s.Action, Object.keys(s.Resource)]),
    [["Allow", ["logs:CreateLogStream", "logs:PutLogEvents"], ["Fn::GetAtt"]]],
  );
  // Lambda refuses a function whose role may not join it to the VPC yet.
  assert.ok(template.findResources("AWS::Lambda::Function")[fnId].DependsOn.includes(role));

  // The template has the same.
  const service = readFileSync(path.join(__dirname, "../../../cloudformation/service.yaml"), "utf8");
  for (const action of network.Action) assert.equal(service.split(`- ${action}\n`).length, 3, action);
});

test("ECS takes the routers' role for tasks of this account only", () => {
  const template = synth();
  const [, task] = only(template.findResources("AWS::ECS::TaskDefinition"));
  const role = template.findResources("AWS::IAM::Role")[task.TaskRoleArn["Fn::GetAtt"][0]].Properties;
  assert.deepEqual(role.AssumeRolePolicyDocument.Statement[0].Condition, {
    StringEquals: { "aws:SourceAccount": "123456789012" },
  });
});

test("no task starts before it may have its image and its role's permissions", () => {
  const template = synth();
  const policies = Object.entries(template.findResources("AWS::IAM::Policy"))
    .filter(([, { Properties }]) => /"Router/.test(JSON.stringify(Properties.Roles)))
    .map(([id]) => id);
  assert.equal(policies.length, 2); // of the task, and of ECS itself
  const [service] = Object.values(template.findResources("AWS::ECS::Service"));
  assert.deepEqual(policies.filter((p) => !service.DependsOn.includes(p)), []);
});

test("routers without a way to the internet get endpoints, and wait for them", () => {
  const w = world();
  addRouter(w, { function: addFunction(w) });
  addRouterEndpoints(w.vpc);
  const template = Template.fromStack(w.stack);
  const endpoints = Object.keys(template.findResources("AWS::EC2::VPCEndpoint"));
  assert.equal(endpoints.length, 5);
  const [service] = Object.values(template.findResources("AWS::ECS::Service"));
  assert.deepEqual(endpoints.filter((e) => !service.DependsOn.includes(e)), []);
});

test("who is believed about the client: the VPC, or what is given", () => {
  const trusted = (props: Partial<LambdaDispatchRouterProps>) =>
    /trusted_proxies static (.*)/.exec(caddyfile(synth(props)))![1];
  assert.equal(trusted({}), '{"Fn::GetAtt":["Vpc8378EB38","CidrBlock"]}');
  assert.equal(trusted({ trustedProxies: ["10.1.0.0/24", "10.1.1.0/24"] }), "10.1.0.0/24 10.1.1.0/24");

  const w = world();
  const vpc = (id: string, vpcCidrBlock?: string) =>
    ec2.Vpc.fromVpcAttributes(w.stack, id, {
      vpcId: "vpc-00000001",
      vpcCidrBlock,
      availabilityZones: ["eu-central-1a", "eu-central-1b"],
      publicSubnetIds: ["subnet-00000001", "subnet-00000002"],
      privateSubnetIds: ["subnet-00000003", "subnet-00000004"],
    });
  assert.deepEqual(rangesOf(vpc("Known", "10.9.0.0/16")), ["10.9.0.0/16"]);
  assert.deepEqual(rangesOf(vpc("Unknown")), ["private_ranges"]);
});

test("the router knows the IDs of its zones: from its subnets, or as given", () => {
  const zone = (template: Template) => /\tzone (.*)/.exec(caddyfile(template))![1];
  const name = (subnet: string) => `{"Fn::GetAtt":["${subnet}","AvailabilityZone"]}={"Fn::GetAtt":["${subnet}","AvailabilityZoneId"]}`;
  assert.equal(zone(synth()), `${name("VpcPrivateSubnet1Subnet536B997A")} ${name("VpcPrivateSubnet2Subnet3788AAA1")}`);
  const zones = { "eu-central-1a": "euc1-az2", "eu-central-1b": "euc1-az3" };
  assert.equal(zone(synth({ zones })), "eu-central-1a=euc1-az2 eu-central-1b=euc1-az3");
  assert.equal(zone(synth({ zones: {} })), "auto");
  const w = world();
  assert.equal(zonesOf([ec2.Subnet.fromSubnetId(w.stack, "Theirs", "subnet-00000001"), ...w.vpc.publicSubnets]), "auto");
  assert.equal(zonesOf([]), "auto");
});

test("metrics for CloudWatch, if they are asked for", () => {
  const option = (cloudWatchMetrics: LambdaDispatchRouterProps["cloudWatchMetrics"]) =>
    /\tlambda_dispatch \{\n[^]*?\n\t\}\n/.exec(caddyfile(synth({ cloudWatchMetrics })))?.[0];
  assert.equal(option(undefined), undefined);
  assert.equal(option(false), undefined);
  assert.equal(
    option(true),
    '\tlambda_dispatch {\n\t\tcloudwatch_metrics {\n\t\t\tdimensions "service" "Shop"\n\t\t}\n\t}\n',
  );
  assert.equal(
    option({ namespace: "Shop", dimensions: { stage: "{env.STAGE}", region: "eu central" } }),
    '\tlambda_dispatch {\n\t\tcloudwatch_metrics {\n\t\t\tnamespace "Shop"\n' +
      '\t\t\tdimensions "stage" "{env.STAGE}"\n\t\t\tdimensions "region" "eu central"\n\t\t}\n\t}\n',
  );
  assert.throws(() => synth({ cloudWatchMetrics: { dimensions: { stage: 'a"b' } } }), /"a\\"b": quotes/);
  for (const namespace of ["", "AWS/Shop", ":shop", " shop", "shöp", "x".repeat(256)]) {
    assert.throws(() => synth({ cloudWatchMetrics: { namespace } }), /cloudWatchMetrics.namespace/, namespace);
  }
});

// tests/deploy runs a router with those Caddyfiles.
for (const [file, trustedProxies] of [["existing", "private_ranges"], ["service", "10.72.0.0/16"]]) {
  test(`the Caddyfile is that of ${file}.yaml`, () => {
    const values: Record<string, string> = {
      Function: "shop",
      MaxConcurrent: "10",
      MaxInstances: "7",
      VpcCidr: trustedProxies,
    };
    const got = routerCaddyfile({
      functionName: "shop",
      maxConcurrent: 10,
      maxInstances: 7,
      queueTimeout: Duration.minutes(1),
      shutdownDelay: Duration.seconds(20),
      gracePeriod: Duration.seconds(90),
      idleTimeout: Duration.minutes(5),
      trustedProxies: [trustedProxies],
      zones: "auto",
      directives: [],
    });
    // What else the template puts in is off by default.
    const want = caddyfileOf(file).replace(/\$\{(\w+)\}/g, (_, name) => values[name] ?? "");
    assert.deepEqual(settings(got), settings(want));
  });
}

/** The Caddyfile in a CloudFormation template. */
function caddyfileOf(file: string): string {
  const template = readFileSync(path.join(__dirname, `../../../cloudformation/${file}.yaml`), "utf8");
  const [, indentation, block] = /- Name: CADDYFILE\n(?:.*\n){1,2}?((?: )+)(\{\n(?:\1.*\n)+)/.exec(template)!;
  return block.replace(new RegExp(`^${indentation}`, "gm"), "");
}

/** The lines that are settings, with times in seconds, without zones: each asks its own subnets for them. */
function settings(caddyfile: string): string[] {
  return caddyfile
    .split("\n")
    .filter((line) => !/^\s*(#.*|zone\b.*)?$/.test(line))
    .map((line) => line.replace(/\b(idle|queue_timeout) (\d)m$/, (_, name, minutes) => `${name} ${minutes * 60}s`));
}

test("more subdirectives", () => {
  assert.match(
    caddyfile(synth({ directives: ["min_instances 2", "idle_timeout 5m"] })),
    /\n\t\t\tmin_instances 2\n\t\t\tidle_timeout 5m\n\t\t\tcallback/,
  );
});
