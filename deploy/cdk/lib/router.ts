import { Annotations, Duration, RemovalPolicy, Size, Stack } from "aws-cdk-lib";
import * as acm from "aws-cdk-lib/aws-certificatemanager";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as ecs from "aws-cdk-lib/aws-ecs";
import * as elb from "aws-cdk-lib/aws-elasticloadbalancingv2";
import * as iam from "aws-cdk-lib/aws-iam";
import * as lambda from "aws-cdk-lib/aws-lambda";
import * as logs from "aws-cdk-lib/aws-logs";
import { Construct } from "constructs";
import { CALLBACK_PORT, type CloudWatchMetrics, HEALTH_PATH, SITE_PORT, routerCaddyfile } from "./caddyfile.js";
import { type Capacity, IDLE_TIMEOUT, type Numbers, STOP_TIMEOUT, checkNumbers, checkOptions, numbersOf } from "./checks.js";
import { LambdaDispatchFunction } from "./function.js";
import { closedSecurityGroup, endpointsOf, rangesOf, zonesOf } from "./network.js";
import { type Target, targetOf } from "./target.js";

export interface LambdaDispatchRouterProps {
  readonly vpc: ec2.IVpc;
  /** Where the routers run. @default private subnets */
  readonly vpcSubnets?: ec2.SubnetSelection;
  /** The router's image, of xcaddy.Dockerfile. */
  readonly image: ecs.ContainerImage;
  /** What the routers invoke: a function in the VPC, or an alias of one. */
  readonly function: LambdaDispatchFunction | lambda.IFunction;
  /** Of the function's environments, if the function is imported without it. */
  readonly functionSecurityGroup?: ec2.ISecurityGroup;
  /** Of the image. @default ARM64, a fifth cheaper */
  readonly cpuArchitecture?: ecs.CpuArchitecture;
  /** Of a router, 1024 are a vCPU. @default 512 */
  readonly cpu?: number;
  /** Of a router, MiB. @default 1024 */
  readonly memoryLimitMiB?: number;
  /** @default on-demand. mixed: one router on Fargate, all others on Fargate Spot */
  readonly capacity?: Capacity;
  /** @default 2 */
  readonly minRouters?: number;
  /** @default 4 */
  readonly maxRouters?: number;
  /** Most instances of each router. @default 10 */
  readonly maxInstances?: number;
  /** Most requests at once in one environment of the function. @default 10 */
  readonly maxConcurrent?: number;
  /** More subdirectives of lambda_dispatch, one each, such as "min_instances 2". */
  readonly directives?: string[];
  /** Metrics in CloudWatch, by way of the routers' log. It bills a dozen custom metrics. @default false */
  readonly cloudWatchMetrics?: boolean | CloudWatchMetrics;
  /** How long a request may wait for a slot. @default 1 minute */
  readonly queueTimeout?: Duration;
  /**
   * How long the load balancer waits without a byte: longer than queueTimeout, up to 4 minutes.
   * With a listener that is given it only says how that load balancer is set.
   * @default 2 minutes
   */
  readonly balancerIdleTimeout?: Duration;
  /** How long requests may run on a router that ECS stops. Less than 2 minutes with Spot. @default 90 seconds */
  readonly deregistrationDelay?: Duration;
  /** Of the site. Without one the site is plain HTTP. Not with listener. */
  readonly certificate?: acm.ICertificate;
  /** Whether the load balancer is in public subnets. Not with listener. @default true */
  readonly internetFacing?: boolean;
  /** Who may connect to the load balancer. Not with listener. @default everyone who can reach it */
  readonly clients?: ec2.IPeer[];
  /**
   * Where the load balancer's addresses are, as CIDR blocks: what comes from there is believed
   * what it says of the client, such as X-Forwarded-For.
   * @default the VPC's, or private_ranges for an imported VPC whose addresses are not known
   */
  readonly trustedProxies?: string[];
  /**
   * The ID of each zone by its name, such as { "eu-central-1a": "euc1-az2" }, so that the metric
   * tunnel_bytes_total can tell what crosses zones.
   * @default those of the routers' subnets, or none for subnets that are imported
   */
  readonly zones?: Record<string, string>;
  /** A listener that is there already, which gets a rule; by default a load balancer is made. */
  readonly listener?: elb.IApplicationListener;
  /** Of the rule for listener. Without conditions and priority the routers are its default. */
  readonly conditions?: elb.ListenerCondition[];
  /** Of the rule for listener. */
  readonly priority?: number;
  /**
   * A cluster in the VPC. An imported one needs FARGATE and FARGATE_SPOT among its capacity
   * providers for mixed and spot; one of this app gets them.
   * @default a new cluster
   */
  readonly cluster?: ecs.ICluster;
}

const SHUTDOWN_DELAY = Duration.seconds(20);
const HEALTH_CHECK = { interval: 5, timeout: 3, threshold: 2 };

/** Routers on Fargate behind a load balancer, which run requests in a Lambda function. */
export class LambdaDispatchRouter extends Construct implements ec2.IConnectable {
  readonly service: ecs.FargateService;
  readonly targetGroup: elb.ApplicationTargetGroup;
  /** The load balancer, if none was given. */
  readonly loadBalancer?: elb.ApplicationLoadBalancer;
  readonly connections: ec2.Connections;

  constructor(scope: Construct, id: string, props: LambdaDispatchRouterProps) {
    super(scope, id);
    const numbers = numbersOf(props);
    const target = targetOf(this, props.function, props.functionSecurityGroup);
    checkOptions(props);
    checkNumbers(numbers, target.reserved);

    const group = new ec2.SecurityGroup(this, "SecurityGroup", {
      vpc: props.vpc,
      description: "The routers",
      allowAllOutbound: false,
    });
    // S3, where images are, has no security group, so this cannot be narrower.
    group.addEgressRule(ec2.Peer.anyIpv4(), ec2.Port.tcp(443), "Lambda, logs, images");
    this.connections = new ec2.Connections({ securityGroups: [group] });
    // From, and not to: so the CDK puts the rules of both groups into the router's stack, which
    // uses that of the function anyway, and never the other way round.
    this.connections.allowFrom(target.environments, ec2.Port.tcp(CALLBACK_PORT), "callbacks, from the function only");

    this.service = this.addService(props, numbers, group, this.addTask(props, numbers, target));
    this.targetGroup = new elb.ApplicationTargetGroup(this, "Routers", {
      vpc: props.vpc,
      targetType: elb.TargetType.IP,
      protocol: elb.ApplicationProtocol.HTTP,
      port: SITE_PORT,
      loadBalancingAlgorithmType: elb.TargetGroupLoadBalancingAlgorithmType.LEAST_OUTSTANDING_REQUESTS,
      deregistrationDelay: numbers.deregistrationDelay,
      healthCheck: {
        path: HEALTH_PATH,
        healthyHttpCodes: "200",
        interval: Duration.seconds(HEALTH_CHECK.interval),
        timeout: Duration.seconds(HEALTH_CHECK.timeout),
        healthyThresholdCount: HEALTH_CHECK.threshold,
        unhealthyThresholdCount: HEALTH_CHECK.threshold,
      },
      targets: [this.service.loadBalancerTarget({ containerName: "router", containerPort: SITE_PORT })],
    });
    if (props.listener) {
      this.useListener(props.listener, props);
      return;
    }
    this.loadBalancer = this.addLoadBalancer(props, numbers.balancerIdleTimeout);
  }

  private addTask(props: LambdaDispatchRouterProps, numbers: Numbers, target: Target): ecs.FargateTaskDefinition {
    const task = new ecs.FargateTaskDefinition(this, "Task", {
      cpu: props.cpu ?? 512,
      memoryLimitMiB: props.memoryLimitMiB ?? 1024,
      runtimePlatform: {
        operatingSystemFamily: ecs.OperatingSystemFamily.LINUX,
        cpuArchitecture: props.cpuArchitecture ?? ecs.CpuArchitecture.ARM64,
      },
      // Why the account is named: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-iam-roles.html#create_task_iam_policy_and_role
      taskRole: new iam.Role(this, "TaskRole", {
        assumedBy: new iam.ServicePrincipal("ecs-tasks.amazonaws.com", {
          conditions: { StringEquals: { "aws:SourceAccount": Stack.of(this).account } },
        }),
      }),
    });
    task.addToTaskRolePolicy(new iam.PolicyStatement({ actions: ["lambda:InvokeFunction"], resources: [target.arn] }));
    task.addContainer("router", {
      image: props.image,
      stopTimeout: STOP_TIMEOUT,
      readonlyRootFilesystem: true,
      portMappings: [{ containerPort: SITE_PORT }, { containerPort: CALLBACK_PORT }],
      // A client and an instance are a file each.
      ulimits: [{ name: ecs.UlimitName.NOFILE, softLimit: 65535, hardLimit: 65535 }],
      logging: ecs.LogDrivers.awsLogs({
        streamPrefix: "router",
        // Requests do not wait for CloudWatch.
        mode: ecs.AwsLogDriverMode.NON_BLOCKING,
        maxBufferSize: Size.mebibytes(4),
        logGroup: new logs.LogGroup(this, "Logs", {
          retention: logs.RetentionDays.ONE_MONTH,
          removalPolicy: RemovalPolicy.DESTROY,
        }),
      }),
      environment: {
        CADDYFILE: this.caddyfile(props, numbers, target),
        // The router does not read it. With a new app the routers are replaced too, and
        // with them the instances of the old app.
        ...(target.version && { APP_VERSION: target.version }),
      },
    });
    return task;
  }

  private caddyfile(props: LambdaDispatchRouterProps, numbers: Numbers, target: Target): string {
    return routerCaddyfile({
      functionName: target.name,
      maxConcurrent: numbers.maxConcurrent,
      maxInstances: numbers.maxInstances,
      queueTimeout: numbers.queueTimeout,
      shutdownDelay: SHUTDOWN_DELAY,
      gracePeriod: STOP_TIMEOUT.minus(SHUTDOWN_DELAY).minus(Duration.seconds(10)),
      idleTimeout: IDLE_TIMEOUT,
      trustedProxies: props.trustedProxies ?? rangesOf(props.vpc),
      zones: props.zones
        ? Object.entries(props.zones).map(([name, id]) => `${name}=${id}`).join(" ") || "auto"
        : zonesOf(props.vpc.selectSubnets(props.vpcSubnets).subnets),
      cloudWatchMetrics: this.metrics(props.cloudWatchMetrics),
      directives: props.directives ?? [],
    });
  }

  private metrics(wanted?: boolean | CloudWatchMetrics): CloudWatchMetrics | undefined {
    if (!wanted) return undefined;
    return { dimensions: { service: Stack.of(this).stackName }, ...(wanted !== true && wanted) };
  }

  private addService(
    props: LambdaDispatchRouterProps,
    numbers: Numbers,
    group: ec2.ISecurityGroup,
    taskDefinition: ecs.FargateTaskDefinition,
  ): ecs.FargateService {
    const cluster = props.cluster ?? new ecs.Cluster(this, "Cluster", { vpc: props.vpc });
    const service = new ecs.FargateService(this, "Service", {
      cluster,
      taskDefinition,
      vpcSubnets: props.vpcSubnets,
      securityGroups: [group],
      assignPublicIp: false,
      capacityProviderStrategies: this.strategies(cluster, numbers.capacity),
      // Another strategy deploys nothing by itself, and may be refused without that:
      // https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_UpdateService.html
      // https://github.com/aws/aws-cdk/issues/34631
      forceNewDeployment: { enabled: true, nonce: numbers.capacity },
      availabilityZoneRebalancing: ecs.AvailabilityZoneRebalancing.ENABLED,
      healthCheckGracePeriod: Duration.seconds(60),
      // All new routers start before an old one stops.
      minHealthyPercent: 100,
      maxHealthyPercent: 200,
      circuitBreaker: { enable: true, rollback: true },
      propagateTags: ecs.PropagatedTagSource.SERVICE,
    });
    // Its capacity providers, without which ECS refuses the service, and what tasks need to start: the
    // policy that lets ECS fetch the image is made after its role, and the CDK waits for the task role's only.
    service.node.addDependency(cluster, endpointsOf(props.vpc), taskDefinition.obtainExecutionRole());
    const scaling = service.autoScaleTaskCount({ minCapacity: numbers.minRouters, maxCapacity: numbers.maxRouters });
    scaling.scaleOnCpuUtilization("Cpu", {
      targetUtilizationPercent: 50,
      scaleOutCooldown: Duration.seconds(30),
      // A router that goes takes its instances with it: rarely is better.
      scaleInCooldown: Duration.seconds(600),
    });
    return service;
  }

  private strategies(cluster: ecs.ICluster, capacity: Capacity): ecs.CapacityProviderStrategy[] | undefined {
    const own = cluster instanceof ecs.Cluster;
    if (own) cluster.enableFargateCapacityProviders();
    if (!own && capacity === "on-demand") return undefined; // launch type FARGATE, which every cluster has
    if (!own) {
      Annotations.of(this).addWarningV2(
        "lambda-dispatch:capacityProviders",
        `capacity "${capacity}": the imported cluster must have FARGATE and FARGATE_SPOT among its capacity providers`,
      );
    }
    switch (capacity) {
      case "spot":
        return [{ capacityProvider: "FARGATE_SPOT", weight: 1 }];
      case "mixed":
        return [
          { capacityProvider: "FARGATE", base: 1, weight: 0 },
          { capacityProvider: "FARGATE_SPOT", weight: 1 },
        ];
      default:
        return [{ capacityProvider: "FARGATE", weight: 1 }];
    }
  }

  private useListener(listener: elb.IApplicationListener, props: LambdaDispatchRouterProps): void {
    const targetGroups = [this.targetGroup];
    if (!props.conditions || props.priority === undefined) {
      listener.addTargetGroups("Routers", { targetGroups });
      return;
    }
    // Here, and not by the listener's methods, which would make its stack depend on this one.
    new elb.ApplicationListenerRule(this, "Rule", {
      listener,
      conditions: props.conditions,
      priority: props.priority,
      targetGroups,
    });
  }

  private addLoadBalancer(props: LambdaDispatchRouterProps, idleTimeout: Duration): elb.ApplicationLoadBalancer {
    const balancer = new elb.ApplicationLoadBalancer(this, "Balancer", {
      vpc: props.vpc,
      internetFacing: props.internetFacing ?? true,
      securityGroup: closedSecurityGroup(this, "BalancerSecurityGroup", props.vpc, "The load balancer"),
      idleTimeout,
      dropInvalidHeaderFields: true,
    });
    const open = !props.clients;
    for (const port of props.certificate ? [80, 443] : [80]) {
      props.clients?.forEach((c) => balancer.connections.allowFrom(c, ec2.Port.tcp(port), "clients"));
    }
    const defaultTargetGroups = [this.targetGroup];
    if (!props.certificate) {
      balancer.addListener("Http", { port: 80, open, defaultTargetGroups });
      return balancer;
    }
    balancer.addListener("Https", {
      port: 443,
      open,
      certificates: [props.certificate],
      sslPolicy: elb.SslPolicy.TLS13_RES,
      defaultTargetGroups,
    });
    balancer.addRedirect({ open }); // from HTTP to HTTPS
    return balancer;
  }
}
