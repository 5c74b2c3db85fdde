import { Duration, RemovalPolicy } from "aws-cdk-lib";
import * as acm from "aws-cdk-lib/aws-certificatemanager";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as ecs from "aws-cdk-lib/aws-ecs";
import * as elb from "aws-cdk-lib/aws-elasticloadbalancingv2";
import * as iam from "aws-cdk-lib/aws-iam";
import * as lambda from "aws-cdk-lib/aws-lambda";
import * as logs from "aws-cdk-lib/aws-logs";
import { Construct } from "constructs";
import { CALLBACK_PORT, HEALTH_PATH, SITE_PORT, routerCaddyfile } from "./caddyfile.js";
import { LambdaDispatchFunction } from "./function.js";
import { closedSecurityGroup } from "./network.js";

export interface LambdaDispatchRouterProps {
  readonly vpc: ec2.IVpc;
  /** Where the routers run. @default private subnets */
  readonly vpcSubnets?: ec2.SubnetSelection;
  /** The router's image, of xcaddy.Dockerfile. */
  readonly image: ecs.ContainerImage;
  /** What the routers invoke: a function in the VPC, or an alias of one. */
  readonly function: LambdaDispatchFunction | lambda.IFunction;
  /** Of the image. @default ARM64, a fifth cheaper */
  readonly cpuArchitecture?: ecs.CpuArchitecture;
  /** Of a router, 1024 are a vCPU. @default 512 */
  readonly cpu?: number;
  /** Of a router, MiB. @default 1024 */
  readonly memoryLimitMiB?: number;
  /** @default on-demand. mixed: one router on Fargate, all others on Fargate Spot */
  readonly capacity?: "on-demand" | "mixed" | "spot";
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
  /** A listener that is there already, which gets a rule; by default a load balancer is made. */
  readonly listener?: elb.IApplicationListener;
  /** Of the rule for listener. */
  readonly conditions?: elb.ListenerCondition[];
  /** Of the rule for listener. */
  readonly priority?: number;
  /** @default a new cluster */
  readonly cluster?: ecs.Cluster;
}

/** What Fargate allows at most, and what Spot leaves. */
const STOP_TIMEOUT = Duration.seconds(120);
const SHUTDOWN_DELAY = Duration.seconds(20);
const IDLE_TIMEOUT = Duration.seconds(300);
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
    const own = props.function instanceof LambdaDispatchFunction ? props.function : undefined;
    const target: lambda.IFunction = own ? own.alias : (props.function as lambda.IFunction);
    const minRouters = props.minRouters ?? 2;
    const maxRouters = props.maxRouters ?? 4;
    const maxInstances = props.maxInstances ?? 10;
    const queueTimeout = props.queueTimeout ?? Duration.minutes(1);
    const balancerIdle = props.balancerIdleTimeout ?? Duration.minutes(2);
    const deregistration = props.deregistrationDelay ?? Duration.seconds(90);
    const capacity = props.capacity ?? "on-demand";
    check(props, { own, maxRouters, maxInstances, queueTimeout, balancerIdle, deregistration, capacity });

    const group = new ec2.SecurityGroup(this, "SecurityGroup", {
      vpc: props.vpc,
      description: "The routers",
      allowAllOutbound: false,
    });
    // S3, where images are, has no security group, so this cannot be narrower.
    group.addEgressRule(ec2.Peer.anyIpv4(), ec2.Port.tcp(443), "Lambda, logs, images");
    this.connections = new ec2.Connections({ securityGroups: [group] });
    const environments = own ?? (props.function as lambda.IFunction);
    environments.connections.allowTo(this, ec2.Port.tcp(CALLBACK_PORT), "callbacks, from the function only");

    const task = new ecs.FargateTaskDefinition(this, "Task", {
      cpu: props.cpu ?? 512,
      memoryLimitMiB: props.memoryLimitMiB ?? 1024,
      runtimePlatform: {
        operatingSystemFamily: ecs.OperatingSystemFamily.LINUX,
        cpuArchitecture: props.cpuArchitecture ?? ecs.CpuArchitecture.ARM64,
      },
    });
    task.addToTaskRolePolicy(
      new iam.PolicyStatement({ actions: ["lambda:InvokeFunction"], resources: [target.functionArn] }),
    );
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
        logGroup: new logs.LogGroup(this, "Logs", {
          retention: logs.RetentionDays.ONE_MONTH,
          removalPolicy: RemovalPolicy.DESTROY,
        }),
      }),
      environment: {
        CADDYFILE: routerCaddyfile({
          functionName: target.functionName,
          maxConcurrent: props.maxConcurrent ?? 10,
          maxInstances,
          queueTimeout,
          shutdownDelay: SHUTDOWN_DELAY,
          gracePeriod: STOP_TIMEOUT.minus(SHUTDOWN_DELAY).minus(Duration.seconds(10)),
          idleTimeout: IDLE_TIMEOUT,
          directives: props.directives ?? [],
        }),
        // With a new app the routers are replaced too, and with them the instances of
        // the old app.
        ...(own && { APP_VERSION: own.function.currentVersion.version }),
      },
    });

    const cluster = props.cluster ?? new ecs.Cluster(this, "Cluster", { vpc: props.vpc });
    if (!props.cluster) cluster.enableFargateCapacityProviders();
    this.service = new ecs.FargateService(this, "Service", {
      cluster,
      taskDefinition: task,
      vpcSubnets: props.vpcSubnets,
      securityGroups: [group],
      assignPublicIp: false,
      capacityProviderStrategies: strategies(capacity),
      availabilityZoneRebalancing: ecs.AvailabilityZoneRebalancing.ENABLED,
      healthCheckGracePeriod: Duration.seconds(60),
      // All new routers start before an old one stops.
      minHealthyPercent: 100,
      maxHealthyPercent: 200,
      circuitBreaker: { enable: true, rollback: true },
      propagateTags: ecs.PropagatedTagSource.SERVICE,
    });
    const scaling = this.service.autoScaleTaskCount({ minCapacity: minRouters, maxCapacity: maxRouters });
    scaling.scaleOnCpuUtilization("Cpu", {
      targetUtilizationPercent: 50,
      scaleOutCooldown: Duration.seconds(30),
      // A router that goes takes its instances with it: rarely is better.
      scaleInCooldown: Duration.seconds(600),
    });

    this.targetGroup = new elb.ApplicationTargetGroup(this, "Routers", {
      vpc: props.vpc,
      targetType: elb.TargetType.IP,
      protocol: elb.ApplicationProtocol.HTTP,
      port: SITE_PORT,
      loadBalancingAlgorithmType: elb.TargetGroupLoadBalancingAlgorithmType.LEAST_OUTSTANDING_REQUESTS,
      deregistrationDelay: deregistration,
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
      props.listener.addTargetGroups("Routers", {
        targetGroups: [this.targetGroup],
        conditions: props.conditions,
        priority: props.priority,
      });
      return;
    }
    this.loadBalancer = new elb.ApplicationLoadBalancer(this, "Balancer", {
      vpc: props.vpc,
      internetFacing: true,
      securityGroup: closedSecurityGroup(this, "BalancerSecurityGroup", props.vpc, "The load balancer"),
      idleTimeout: balancerIdle,
      dropInvalidHeaderFields: true,
    });
    if (!props.certificate) {
      this.loadBalancer.addListener("Http", { port: 80, defaultTargetGroups: [this.targetGroup] });
      return;
    }
    this.loadBalancer.addListener("Https", {
      port: 443,
      certificates: [props.certificate],
      sslPolicy: elb.SslPolicy.TLS13_RES,
      defaultTargetGroups: [this.targetGroup],
    });
    this.loadBalancer.addRedirect(); // from HTTP to HTTPS
  }
}

/** Refuses numbers that do not fit together, at synthesis. */
function check(
  props: LambdaDispatchRouterProps,
  n: {
    own?: LambdaDispatchFunction;
    maxRouters: number;
    maxInstances: number;
    queueTimeout: Duration;
    balancerIdle: Duration;
    deregistration: Duration;
    capacity: string;
  },
): void {
  const most = n.maxInstances * n.maxRouters * 2;
  const reserved = n.own?.reservedConcurrentExecutions;
  if (reserved !== undefined && most > reserved) {
    throw new Error(
      `maxInstances ${n.maxInstances} x maxRouters ${n.maxRouters} x 2, for deployments, is ${most}, ` +
        `more than the function's reservedConcurrentExecutions of ${reserved}`,
    );
  }
  if (n.queueTimeout.toSeconds() >= n.balancerIdle.toSeconds()) {
    throw new Error(
      `queueTimeout ${n.queueTimeout.toSeconds()} s must be less than balancerIdleTimeout, ` +
        `${n.balancerIdle.toSeconds()} s: the load balancer would give up first`,
    );
  }
  if (n.balancerIdle.toSeconds() >= IDLE_TIMEOUT.toSeconds()) {
    throw new Error(
      `balancerIdleTimeout ${n.balancerIdle.toSeconds()} s must be less than ${IDLE_TIMEOUT.toSeconds()} s, ` +
        `after which the router closes idle connections`,
    );
  }
  if (n.capacity !== "on-demand" && n.deregistration.toSeconds() >= STOP_TIMEOUT.toSeconds()) {
    throw new Error(
      `deregistrationDelay ${n.deregistration.toSeconds()} s must be less than ${STOP_TIMEOUT.toSeconds()} s, ` +
        `which is all that Spot leaves`,
    );
  }
  if (props.listener && props.certificate) {
    throw new Error("a listener that is there already has its certificates: leave certificate out");
  }
}

function strategies(capacity: string): ecs.CapacityProviderStrategy[] {
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
