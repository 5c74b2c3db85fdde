import { ArnFormat, Duration, RemovalPolicy, Stack } from "aws-cdk-lib";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as iam from "aws-cdk-lib/aws-iam";
import * as lambda from "aws-cdk-lib/aws-lambda";
import * as logs from "aws-cdk-lib/aws-logs";
import { Construct } from "constructs";
import { closedSecurityGroup } from "./network.js";

export interface LambdaDispatchFunctionProps {
  /** The app's image, with the adapter in it. */
  readonly code: lambda.DockerImageCode;
  /** The VPC of the routers. */
  readonly vpc: ec2.IVpc;
  /** @default private subnets */
  readonly vpcSubnets?: ec2.SubnetSelection;
  /** Of the image. @default arm64, a fifth cheaper */
  readonly architecture?: lambda.Architecture;
  /** MB. @default 1769, one vCPU */
  readonly memorySize?: number;
  /** Variables for the app and the adapter. */
  readonly environment?: Record<string, string>;
  /**
   * The most environments, for all routers together: a bound on what the function
   * can cost. At least maxInstances x maxRouters x 2, because a deployment doubles
   * the routers for a while.
   * @default none reserved, the account's limit holds
   */
  readonly reservedConcurrentExecutions?: number;
  /** Whether the app may connect to anything. @default false: to the routers, and what connections allow */
  readonly allowAllOutbound?: boolean;
  /** @default a month */
  readonly logRetention?: logs.RetentionDays;
}

/** What Lambda needs to join environments to the VPC. */
const NETWORK_ACTIONS = [
  "ec2:AssignPrivateIpAddresses",
  "ec2:CreateNetworkInterface",
  "ec2:DeleteNetworkInterface",
  "ec2:DescribeNetworkInterfaces",
  "ec2:DescribeSubnets",
  "ec2:UnassignPrivateIpAddresses",
];

/** A Lambda function for routers: an image in a VPC, whose environments live as long as Lambda allows. */
export class LambdaDispatchFunction extends Construct implements ec2.IConnectable {
  readonly function: lambda.DockerImageFunction;
  /** What routers invoke. It follows the newest version, and moves only when that is there. */
  readonly alias: lambda.Alias;
  readonly connections: ec2.Connections;

  constructor(scope: Construct, id: string, props: LambdaDispatchFunctionProps) {
    super(scope, id);
    const description = "Environments of the function, nobody connects to them";
    const group = props.allowAllOutbound
      ? new ec2.SecurityGroup(this, "SecurityGroup", { vpc: props.vpc, description })
      : closedSecurityGroup(this, "SecurityGroup", props.vpc, description);
    const logGroup = new logs.LogGroup(this, "Logs", {
      retention: props.logRetention ?? logs.RetentionDays.ONE_MONTH,
      removalPolicy: RemovalPolicy.DESTROY,
    });
    // Not Lambda's managed policies, with which the app could write to all logs.
    const role = new iam.Role(this, "Role", {
      assumedBy: new iam.ServicePrincipal("lambda.amazonaws.com"),
      inlinePolicies: { network: networkPolicy(Stack.of(this)) },
    });
    logGroup.grantWrite(role);
    this.function = new lambda.DockerImageFunction(this, "Function", {
      code: props.code,
      architecture: props.architecture ?? lambda.Architecture.ARM_64,
      memorySize: props.memorySize ?? 1769,
      // How long an instance may live. An invocation without requests ends by itself,
      // and each replacement is a cold start.
      timeout: Duration.seconds(900),
      environment: props.environment,
      reservedConcurrentExecutions: props.reservedConcurrentExecutions,
      vpc: props.vpc,
      vpcSubnets: props.vpcSubnets,
      securityGroups: [group],
      loggingFormat: lambda.LoggingFormat.JSON,
      systemLogLevelV2: lambda.SystemLogLevel.WARN,
      applicationLogLevelV2: lambda.ApplicationLogLevel.INFO,
      logGroup,
      role,
    });
    this.alias = this.function.addAlias("live");
    this.connections = this.function.connections;
  }
}

/**
 * Lambda joins environments to the VPC with the function's role, but the app has no business with that:
 * its calls name the function that they come from.
 * https://docs.aws.amazon.com/lambda/latest/dg/permissions-source-function-arn.html
 */
function networkPolicy(stack: Stack): iam.PolicyDocument {
  const functions = stack.formatArn({
    service: "lambda",
    resource: "function",
    resourceName: "*",
    arnFormat: ArnFormat.COLON_RESOURCE_NAME,
  });
  const resources = ["*"]; // the interfaces are not there before
  return new iam.PolicyDocument({
    statements: [
      new iam.PolicyStatement({ actions: NETWORK_ACTIONS, resources }),
      new iam.PolicyStatement({
        effect: iam.Effect.DENY,
        actions: NETWORK_ACTIONS,
        resources,
        conditions: { ArnLike: { "lambda:SourceFunctionArn": functions } },
      }),
    ],
  });
}
